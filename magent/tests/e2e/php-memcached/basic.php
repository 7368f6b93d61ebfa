#!/usr/bin/env php
<?php
// Basic use of php-memcached (libmemcached) through the proxy: host, port, and `text` or `binary`.
function check(string $what, $seen, $expected): void
{
    if ($seen !== $expected) {
        fwrite(STDERR, "$what: " . var_export($seen, true) . ', expected ' . var_export($expected, true) . "\n");
        exit(1);
    }
    echo "ok $what\n";
}

[, $host, $port, $protocol] = $argv;
$memcached = new Memcached();
$memcached->setOption(Memcached::OPT_BINARY_PROTOCOL, $protocol === 'binary');
check('add server', $memcached->addServer($host, (int) $port), true);
check('set', $memcached->set('a', 'value'), true);
check('get', $memcached->get('a'), 'value');
check('get of nothing', $memcached->get('nothing'), false);
check('result of nothing', $memcached->getResultCode(), Memcached::RES_NOTFOUND);
check('add of something', $memcached->add('a', 'other'), false);
check('add', $memcached->add('b', ['x' => 1]), true);
check('get of an array', $memcached->get('b'), ['x' => 1]);
check('replace', $memcached->replace('a', 'new'), true);
$memcached->setOption(Memcached::OPT_COMPRESSION, false);
check('append', $memcached->append('a', '!'), true);
check('prepend', $memcached->prepend('a', '#'), true);
check('get of several', $memcached->getMulti(['a', 'nothing', 'b']), ['a' => '#new!', 'b' => ['x' => 1]]);
check('set of several', $memcached->setMulti(['m1' => 'one', 'm2' => 'two', 'm3' => 'three']), true);
check('order kept', $memcached->getMulti(['m3', 'm1', 'm2'], Memcached::GET_PRESERVE_ORDER),
    ['m3' => 'three', 'm1' => 'one', 'm2' => 'two']);
$extended = $memcached->get('a', null, Memcached::GET_EXTENDED);
check('cas', $memcached->cas($extended['cas'], 'a', 'swapped'), true);
check('cas of old', $memcached->cas($extended['cas'], 'a', 'again'), false);
check('result of old', $memcached->getResultCode(), Memcached::RES_DATA_EXISTS);
check('set of a number', $memcached->set('n', 5), true);
check('increment', $memcached->increment('n', 3), 8);
check('decrement', $memcached->decrement('n', 2), 6);
check('touch', $memcached->touch('a', 3600), true);
check('touch of nothing', $memcached->touch('nothing', 3600), false);
check('large', $memcached->set('large', str_repeat("\0\r\nx", 200000)), true);
check('get of large', $memcached->get('large'), str_repeat("\0\r\nx", 200000));
$memcached->setOption(Memcached::OPT_NOREPLY, true);
$memcached->set('quiet', 'stored');
$memcached->setOption(Memcached::OPT_NOREPLY, false);
check('get after noreply', $memcached->get('quiet'), 'stored');
check('delete', $memcached->delete('a'), true);
check('delete of nothing', $memcached->delete('a'), false);
check('delete of several', $memcached->deleteMulti(['m1', 'm2']), ['m1' => true, 'm2' => true]);
check('stats', count($memcached->getStats()), 1);
check('version', preg_match('/^\d+\.\d+/', current($memcached->getVersion())), 1);
check('flush', $memcached->flush(), true);
check('get of flushed', $memcached->get('b'), false);
check('quit', $memcached->quit(), true);
