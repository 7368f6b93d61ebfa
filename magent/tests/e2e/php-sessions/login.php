#!/usr/bin/env php
<?php
// One page view of a session of php-memcached that logs in: host, port, user, password, session, the number of
// views that the session knows of, and `in` or `out`.
[, $host, $port, $user, $password, $session, $count, $expected] = $argv;
ini_set('session.save_handler', 'memcached');
ini_set('session.save_path', "$host:$port");
ini_set('memcached.sess_sasl_username', $user);
ini_set('memcached.sess_sasl_password', $password);
ob_start();
ini_set('session.use_cookies', '0');
ini_set('session.cache_limiter', '');
session_id($session);
$seen = @session_start() && ($_SESSION['count'] ?? 0) === (int) $count ? 'in' : 'out';
if ($seen === 'in') {
    $_SESSION['count'] = (int) $count + 1;
    $seen = session_write_close() ? 'in' : 'not written';
}
if ($seen !== $expected) {
    fwrite(STDERR, "$user: $seen, expected $expected\n");
    exit(1);
}
