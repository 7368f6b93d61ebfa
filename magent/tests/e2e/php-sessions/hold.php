#!/usr/bin/env php
<?php
// Views a session and then stays in the middle of a second view of it, until it is killed: handler, host, port,
// and session id.
[, $handler, $host, $port, $id] = $argv;
ini_set('session.save_handler', $handler);
ini_set('session.save_path', $handler === 'memcache' ? "tcp://$host:$port" : "$host:$port");
ini_set('session.use_cookies', '0');
ini_set('session.cache_limiter', '');
session_id($id);
session_start() or exit(1);
$_SESSION['viewed'] = true;
session_write_close() or exit(1);
session_start() or exit(1);
sleep(600);
