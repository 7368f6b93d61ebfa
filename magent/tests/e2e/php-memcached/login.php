#!/usr/bin/env php
<?php
// Logs in with php-memcached (SASL): host, port, user, password, and `in` or `out`.
[, $host, $port, $user, $password, $expected] = $argv;
$client = new Memcached();
$client->setOption(Memcached::OPT_BINARY_PROTOCOL, true);
$client->setSaslAuthData($user, $password);
$client->addServer($host, (int) $port);
$seen = $client->set('php', 'value') && $client->get('php') === 'value' ? 'in' : 'out';
if ($seen !== $expected) {
    fwrite(STDERR, "$user: $seen, expected $expected: {$client->getResultMessage()}\n");
    exit(1);
}
