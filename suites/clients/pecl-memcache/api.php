<?php
// The whole API of pecl-memcache, in text: in binary it takes a server that answers "not found" for dead.
// Arguments: host, port.
require __DIR__ . '/../php/check.php';

[, $host, $port] = $argv;

function connect(): Memcache
{
    global $host, $port;
    $memcache = new Memcache();
    $memcache->connect($host, (int) $port);
    return $memcache;
}

/** The same, with what only MemcachePool has. */
function connect_pool(): MemcachePool
{
    global $host, $port;
    $pool = new MemcachePool();
    $pool->addServer($host, (int) $port, 0);
    return $pool;
}

function sorted(array $values): array
{
    ksort($values);
    return $values;
}

/** Until it holds: what expires does so by the server's clock, which ticks in seconds. */
function eventually(Closure $condition): bool
{
    for ($deadline = microtime(true) + 10; microtime(true) < $deadline; usleep(50000)) {
        if ($condition()) {
            return true;
        }
    }
    return false;
}

function storing(Memcache $m): void
{
    check('set', fn () => $m->set('a', 'value'));
    check('get', fn () => $m->get('a'), 'value');
    check('get of nothing', fn () => $m->get('nothing'), false);
    check('add of something', fn () => $m->add('a', 'other'), false);
    check('add', fn () => $m->add('b', [1, 'two', 3.5]));
    check('get of an array', fn () => $m->get('b'), [1, 'two', 3.5]);
    check('replace', fn () => $m->replace('a', 'new'));
    check('replace of nothing', fn () => $m->replace('nothing', 'x'), false);
    check('append', fn () => $m->append('a', '!'));
    check('prepend', fn () => $m->prepend('a', '#'));
    check('append to nothing', fn () => $m->append('nothing', 'x'), false);
    check('get of joined', fn () => $m->get('a'), '#new!');
    foreach (['integer' => 42, 'negative' => -1, 'float' => 1.5, 'true' => true, 'empty' => '',
        'object' => new ArrayObject([1, 2])] as $kind => $value) {
        check("set of $kind", fn () => $m->set("kind-$kind", $value));
        check("get of $kind", fn () => var_export($m->get("kind-$kind"), true), var_export($value, true));
    }
    check('delete', fn () => $m->delete('a'));
    check('delete of nothing', fn () => $m->delete('a'), false);
    check('get of deleted', fn () => $m->get('a'), false);
}

function several(Memcache $m): void
{
    check('set of several', fn () => $m->set(['m1' => 'one', 'm2' => 'two']));
    check('get of several', fn () => sorted($m->get(['m1', 'nothing', 'm2'])), ['m1' => 'one', 'm2' => 'two']);
    check('get of several that are not there', fn () => $m->get(['nothing', 'nowhere']), []);
    check('flags of several', function () use ($m) {
        $m->get(['m1', 'm2'], $flags);
        return sorted($flags);
    }, ['m1' => 0, 'm2' => 0]);
    $values = [];
    for ($n = 0; $n < 500; $n++) {
        $values["many-$n"] = "value $n";
    }
    check('set of 500', fn () => $m->set($values));
    check('get of 500', fn () => sorted($m->get(array_keys($values))) === sorted($values));
    check('delete of several', fn () => $m->delete(['m1', 'm2']));
    check('get of several deleted', fn () => $m->get(['m1', 'm2']), []);
}

function swapping(): void
{
    $pool = connect_pool();
    $pool->set('c', 'first');
    $pool->get('c', $flags, $cas);
    check('get with cas', is_int($cas) && $cas > 0);
    check('cas', fn () => $pool->cas('c', 'swapped', 0, 0, $cas));
    check('cas with an old token', fn () => $pool->cas('c', 'again', 0, 0, $cas), false);
    check('get after cas', fn () => $pool->get('c'), 'swapped');
    check('get of several with cas', function () use ($pool) {
        $pool->set('d', 'x');
        $pool->get(['c', 'd'], $flags, $cas);
        return array_map('is_int', sorted($cas));
    }, ['c' => true, 'd' => true]);
}

function counting(Memcache $m): void
{
    $m->set('n', 5);
    check('increment', fn () => $m->increment('n', 3), 8);
    check('decrement', fn () => $m->decrement('n', 2), 6);
    check('decrement below zero', fn () => $m->decrement('n', 100), 0);
    check('increment of nothing', fn () => $m->increment('nothing'), false);
    $m->set('i', 10);
    check('increment of several', fn () => sorted($m->increment(['n', 'i'], 1)), ['i' => 11, 'n' => 1]);
}

function expiring(Memcache $m): void
{
    check('set with expiry', fn () => $m->set('soon', 'x', 0, 1));
    check('it expires', fn () => eventually(fn () => $m->get('soon') === false));
    check('set with a date', fn () => $m->set('date', 'x', 0, time() + 100));
    check('get of one with a date', fn () => $m->get('date'), 'x');
}

function sizes(Memcache $m): void
{
    $bytes = str_repeat("\0\r\nVALUE x", 90000);
    check('set of 900 kB', fn () => $m->set('large', $bytes));
    check('get of 900 kB', fn () => $m->get('large') === $bytes);
    check('compressed', fn () => $m->set('zip', str_repeat('long ', 100000), MEMCACHE_COMPRESSED));
    check('get of compressed', fn () => strlen($m->get('zip')), 500000);
    $m->setCompressThreshold(1000, 0.2);
    check('compressed by threshold', fn () => $m->set('zip2', str_repeat('long ', 1000)));
    check('get of compressed by threshold', fn () => strlen($m->get('zip2')), 5000);
    $longest = str_repeat('k', 250);
    check('longest key', fn () => $m->set($longest, 'x') && $m->get($longest) === 'x');
    check('blank in a key', fn () => $m->set('a b', 'x') && $m->get('a b') === 'x');
}

function server(Memcache $m): void
{
    global $host, $port;
    check('getVersion', fn () => preg_match('/^1\.6\.\d+$/', $m->getVersion()), 1);
    check('getServerStatus', fn () => $m->getServerStatus($host, (int) $port) !== 0);
    check('getStats', fn () => array_key_exists('curr_items', $m->getStats()));
    check('getStats of items', fn () => is_array($m->getStats('items')));
    check('getStats of slabs', fn () => is_array($m->getStats('slabs')));
    check('getExtendedStats', fn () => array_keys($m->getExtendedStats()), ["$host:$port"]);
    check('flush', fn () => $m->flush());
    check('get of flushed', fn () => $m->get('b'), false);
    check('set after flush', fn () => $m->set('b', 'x') && $m->get('b') === 'x');
    check('close', fn () => $m->close());
    $persistent = new Memcache();
    check('pconnect', fn () => $persistent->pconnect($host, (int) $port) && $persistent->get('b') === 'x');
}

$m = connect();
storing($m);
several($m);
swapping();
counting($m);
expiring($m);
sizes($m);
server($m);
