#!/usr/bin/php
<?php
// PHP's own TLS, through the proxy's port. libmemcached as Debian builds it has none, so neither have PHP's extensions.
[, $host, $port, $authority] = $argv;

function connect(): mixed
{
    global $host, $port, $authority;
    $context = stream_context_create(['ssl' => ['cafile' => $authority, 'peer_name' => $host]]);
    $stream = stream_socket_client("tls://$host:$port", $code, $error, 30, STREAM_CLIENT_CONNECT, $context);
    if (!$stream) {
        fwrite(STDERR, "connect: $error\n");
        exit(1);
    }
    return $stream;
}

for ($page = 0; $page < 5; $page++) {
    $stream = connect();
    fwrite($stream, "set page 0 0 1\r\n$page\r\nget page\r\nquit\r\n");
    $answer = stream_get_contents($stream);
    if ($answer !== "STORED\r\nVALUE page 0 1\r\n$page\r\nEND\r\n") {
        fwrite(STDERR, "page $page: " . var_export($answer, true) . "\n");
        exit(1);
    }
}
echo "ok\n";
