#!/usr/bin/env php
<?php
// Basic use of pecl-memcache (text protocol) through the proxy.
function check(string $what, $seen, $expected): void
{
    if ($seen !== $expected) {
        fwrite(STDERR, "$what: " . var_export($seen, true) . ', expected ' . var_export($expected, true) . "\n");
        exit(1);
    }
    echo "ok $what\n";
}

[, $host, $port] = $argv;
$memcache = new Memcache();
check('connect', $memcache->connect($host, (int) $port), true);
check('version', preg_match('/^\d+\.\d+/', $memcache->getVersion()), 1);
check('set', $memcache->set('a', 'value'), true);
check('get', $memcache->get('a'), 'value');
check('get of nothing', $memcache->get('nothing'), false);
check('add of something', $memcache->add('a', 'other'), false);
check('add', $memcache->add('b', [1, 'two', 3.5]), true);
check('get of an array', $memcache->get('b'), [1, 'two', 3.5]);
check('replace', $memcache->replace('a', 'new'), true);
check('replace of nothing', $memcache->replace('nothing', 'x'), false);
check('append', $memcache->append('a', '!'), true);
check('prepend', $memcache->prepend('a', '#'), true);
check('get of several', $memcache->get(['a', 'nothing', 'b']), ['a' => '#new!', 'b' => [1, 'two', 3.5]]);
check('set with flags', $memcache->set('compressed', str_repeat('long ', 10000), MEMCACHE_COMPRESSED), true);
check('get compressed', $memcache->get('compressed'), str_repeat('long ', 10000));
check('set of a number', $memcache->set('n', 5), true);
check('increment', $memcache->increment('n', 3), 8);
check('decrement', $memcache->decrement('n', 2), 6);
check('increment of nothing', $memcache->increment('nothing'), false);
check('set with exptime', $memcache->set('later', 'x', 0, 3600), true);
check('delete', $memcache->delete('a'), true);
check('delete of nothing', $memcache->delete('a'), false);
check('get of deleted', $memcache->get('a'), false);
check('stats', is_array($memcache->getStats()), true);
$values = [];
for ($n = 0; $n < 200; $n++) {
    $values["many-$n"] = "value $n";
    $memcache->set("many-$n", "value $n") or exit(1);
}
$read = $memcache->get(array_keys($values));
ksort($read);
ksort($values);
check('get of 200', $read, $values);
check('flush', $memcache->flush(), true);
check('get of flushed', $memcache->get('b'), false);
check('close', $memcache->close(), true);
