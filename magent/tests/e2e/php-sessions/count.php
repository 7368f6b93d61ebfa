#!/usr/bin/env php
<?php
// A session that counts page views, as a site behind the proxy does: handler, host, port, session id, and
// the count that the last view wrote. Five views, each a session of its own.
[, $handler, $host, $port, $id, $count] = $argv;
$count = (int) $count;
ini_set('session.use_cookies', '0');
ini_set('session.cache_limiter', '');
ini_set('memcached.sess_binary_protocol', '0');
ini_set('session.save_handler', $handler);
ini_set('session.save_path', $handler === 'memcache' ? "tcp://$host:$port" : "$host:$port");
for ($view = 0; $view < 5; $view++, $count++) {
    session_id($id);
    session_start() or exit(1);
    $seen = $_SESSION['count'] ?? 0;
    if ($seen !== $count) {
        fwrite(STDERR, "$handler session $id: $seen views, expected $count\n");
        exit(1);
    }
    $_SESSION['count'] = $count + 1;
    session_write_close() or exit(1);
}
echo "ok $count\n";
