#!/usr/bin/env php
<?php
// The article's test: adds snsgou1 … snsgou6 through the proxy.
[, $host, $port] = $argv;
$memcache = new Memcache();
$memcache->connect($host, (int) $port) or exit(1);
for ($n = 1; $n <= 6; $n++) {
    $memcache->add("snsgou$n", "value $n") or exit(1);
}
$memcache->close();
echo "ok\n";
