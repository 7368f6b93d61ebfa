<?php
// The whole API of php-memcached (libmemcached). Arguments: host, port, "text" or "binary".
require __DIR__ . '/../php/check.php';

[, $host, $port, $protocol] = $argv;
$binary = $protocol === 'binary';

function connect(array $options = []): Memcached
{
    global $host, $port, $binary;
    $memcached = new Memcached();
    $memcached->setOption(Memcached::OPT_BINARY_PROTOCOL, $binary);
    $memcached->setOptions($options);
    $memcached->addServer($host, (int) $port);
    return $memcached;
}

/** What a call returned, with libmemcached's own word for how it went. */
function with_code(Memcached $memcached, $returned): array
{
    return [$returned, $memcached->getResultCode()];
}

/** For a case that takes several calls: the values of all of them. */
function all(Closure ...$calls): Closure
{
    return fn () => array_map(fn (Closure $call) => $call(), $calls);
}

function storing(Memcached $m): void
{
    check('set', fn () => with_code($m, $m->set('a', 'value')), [true, Memcached::RES_SUCCESS]);
    check('get', fn () => with_code($m, $m->get('a')), ['value', Memcached::RES_SUCCESS]);
    check('get of nothing', fn () => with_code($m, $m->get('nothing')), [false, Memcached::RES_NOTFOUND]);
    check('add of something', fn () => with_code($m, $m->add('a', 'other'))[0], false);
    check('add of something: code', fn () => with_code($m, $m->add('a', 'other'))[1], code_of_refused_add());
    check('add', fn () => with_code($m, $m->add('b', ['x' => 1])), [true, Memcached::RES_SUCCESS]);
    check('get of an array', fn () => $m->get('b'), ['x' => 1]);
    check('replace', fn () => $m->replace('a', 'new'));
    check('replace of nothing', fn () => $m->replace('nothing', 'x'), false);
    foreach (['integer' => 42, 'negative' => -1, 'float' => 1.5, 'true' => true, 'false' => false, 'null' => null,
        'empty' => '', 'object' => new ArrayObject([1, 2])] as $kind => $value) {
        check("set of $kind", fn () => $m->set("kind-$kind", $value));
        check("get of $kind", fn () => var_export($m->get("kind-$kind"), true), var_export($value, true));
    }
    check('empty value in getMulti', fn () => $m->getMulti(['kind-empty']), ['kind-empty' => '']);
    check('delete', fn () => with_code($m, $m->delete('a')), [true, Memcached::RES_SUCCESS]);
    check('delete of nothing', fn () => with_code($m, $m->delete('a')), [false, Memcached::RES_NOTFOUND]);
}

/** libmemcached tells them apart in binary, where the server says that the key exists. */
function code_of_refused_add(): int
{
    global $binary;
    return $binary ? Memcached::RES_DATA_EXISTS : Memcached::RES_NOTSTORED;
}

function joining(): void
{
    $m = connect([Memcached::OPT_COMPRESSION => false]);
    $m->set('joined', 'b');
    check('append', fn () => $m->append('joined', 'c'));
    check('prepend', fn () => $m->prepend('joined', 'a'));
    check('get of joined', fn () => $m->get('joined'), 'abc');
    check('append to nothing', fn () => with_code($m, $m->append('nothing', 'c')), [false, Memcached::RES_NOTSTORED]);
    check('prepend to nothing', fn () => with_code($m, $m->prepend('nothing', 'c')), [false, Memcached::RES_NOTSTORED]);
}

function several(Memcached $m): void
{
    check('setMulti', fn () => $m->setMulti(['m1' => 'one', 'm2' => 'two', 'm3' => 'three']));
    check('getMulti', fn () => sorted($m->getMulti(['m1', 'nothing', 'm2'])), ['m1' => 'one', 'm2' => 'two']);
    check('getMulti of nothing', fn () => $m->getMulti(['nothing', 'nowhere']), []);
    check('getMulti in order', fn () => $m->getMulti(['m3', 'none', 'm1'], Memcached::GET_PRESERVE_ORDER),
        ['m3' => 'three', 'none' => null, 'm1' => 'one']);
    check('getMulti of the same key twice', fn () => $m->getMulti(['m1', 'm1']), ['m1' => 'one']);
    check('deleteMulti', fn () => $m->deleteMulti(['m1', 'm2', 'nothing']),
        ['m1' => true, 'm2' => true, 'nothing' => Memcached::RES_NOTFOUND]);
    $values = [];
    for ($n = 0; $n < 500; $n++) {
        $values["many-$n"] = "value $n";
    }
    check('setMulti of 500', fn () => $m->setMulti($values));
    check('getMulti of 500', fn () => sorted($m->getMulti(array_keys($values))) === sorted($values));
}

function sorted(array $values): array
{
    ksort($values);
    return $values;
}

function delayed(Memcached $m): void
{
    $m->setMulti(['d1' => 'one', 'd2' => 'two']);
    check('getDelayed', fn () => $m->getDelayed(['d1', 'nothing', 'd2']));
    check('fetchAll', fn () => sorted(array_column($m->fetchAll(), 'value', 'key')), ['d1' => 'one', 'd2' => 'two']);
    check('fetch one by one', function () use ($m) {
        $m->getDelayed(['d1', 'd2'], true);
        $seen = [];
        while ($item = $m->fetch()) {
            $seen[$item['key']] = is_int($item['cas']);
        }
        return sorted($seen);
    }, ['d1' => true, 'd2' => true]);
    check('getDelayed with a callback', function () use ($m) {
        $seen = [];
        $m->getDelayed(['d1', 'd2'], false, function ($memcached, $item) use (&$seen) {
            $seen[$item['key']] = $item['value'];
        });
        return sorted($seen);
    }, ['d1' => 'one', 'd2' => 'two']);
}

function swapping(Memcached $m): void
{
    $m->set('c', 'first');
    $read = $m->get('c', null, Memcached::GET_EXTENDED);
    check('get extended', array_keys($read), ['value', 'cas', 'flags']);
    check('cas', fn () => $m->cas($read['cas'], 'c', 'swapped'));
    check('cas with an old token', fn () => with_code($m, $m->cas($read['cas'], 'c', 'again')),
        [false, Memcached::RES_DATA_EXISTS]);
    check('cas of nothing', fn () => with_code($m, $m->cas($read['cas'], 'nothing', 'x')), [false, Memcached::RES_NOTFOUND]);
    check('get after cas', fn () => $m->get('c'), 'swapped');
    $tokens = $m->getMulti(['c', 'd1'], Memcached::GET_EXTENDED);
    check('getMulti extended', fn () => array_map(fn ($item) => is_int($item['cas']), sorted($tokens)), ['c' => true, 'd1' => true]);
    check('cas with a token of getMulti', fn () => $m->cas($tokens['c']['cas'], 'c', 'third'));
    check('read-through callback', fn () => $m->get('made', function ($memcached, $key, &$value) {
        $value = "made for $key";
        return true;
    }), 'made for made');
    check('read-through stored it', fn () => $m->get('made'), 'made for made');
}

function counting(Memcached $m): void
{
    global $binary;
    $m->set('n', 5);
    check('increment', fn () => $m->increment('n', 3), 8);
    check('decrement', fn () => $m->decrement('n', 2), 6);
    check('decrement below zero', fn () => $m->decrement('n', 100), 0);
    check('increment of nothing', fn () => with_code($m, $m->increment('nothing')), [false, Memcached::RES_NOTFOUND]);
    check('increment of a word', function () use ($m) {
        $m->set('word', 'abc');
        return $m->increment('word');
    }, false);
    if ($binary) {
        check('increment with initial value', all(fn () => $m->increment('i', 1, 10), fn () => $m->increment('i', 1, 10)), [10, 11]);
        check('decrement with initial value', all(fn () => $m->decrement('j', 1, 10), fn () => $m->decrement('j', 1, 10)), [10, 9]);
        check('initial value expires', function () use ($m) {
            $m->increment('k', 1, 10, 1);
            return eventually(fn () => $m->get('k') === false);
        });
    }
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

function expiring(Memcached $m): void
{
    global $binary;
    check('set with expiry', fn () => $m->set('soon', 'x', 1));
    check('it expires', fn () => eventually(fn () => $m->get('soon') === false));
    check('set with a date', fn () => all(fn () => $m->set('date', 'x', time() + 100), fn () => $m->get('date'))(), [true, 'x']);
    // In binary an expiry has no sign: this one is a date in 2106.
    check('set with a negative expiry', fn () => all(fn () => $m->set('past', 'x', -1), fn () => $m->get('past'))(),
        [true, $binary ? 'x' : false]);
    // One of 1 s may be gone at once.
    $m->set('touched', 'x', 2);
    check('touch', fn () => $m->touch('touched', 100));
    check('touch of nothing', fn () => with_code($m, $m->touch('nothing', 100)), [false, Memcached::RES_NOTFOUND]);
    $m->set('other', 'x', 2);
    check('touched stays', fn () => eventually(fn () => $m->get('other') === false) && $m->get('touched') === 'x');
}

function by_key(Memcached $m): void
{
    check('setByKey', fn () => $m->setByKey('group', 'g', 'v'));
    check('getByKey', fn () => $m->getByKey('group', 'g'), 'v');
    check('addByKey', fn () => $m->addByKey('group', 'g', 'v'), false);
    check('replaceByKey', fn () => $m->replaceByKey('group', 'g', 'w'));
    $read = $m->getByKey('group', 'g', null, Memcached::GET_EXTENDED);
    check('casByKey', fn () => $m->casByKey($read['cas'], 'group', 'g', 'x'));
    check('touchByKey', fn () => $m->touchByKey('group', 'g', 100));
    check('setMultiByKey', fn () => $m->setMultiByKey('group', ['g1' => '1', 'g2' => '2']));
    check('getMultiByKey', fn () => sorted($m->getMultiByKey('group', ['g1', 'g2'])), ['g1' => '1', 'g2' => '2']);
    check('incrementByKey', fn () => $m->setByKey('group', 'gn', 1) && $m->incrementByKey('group', 'gn') === 2);
    check('decrementByKey', fn () => $m->decrementByKey('group', 'gn'), 1);
    check('deleteByKey', fn () => $m->deleteByKey('group', 'g'));
    check('deleteMultiByKey', fn () => $m->deleteMultiByKey('group', ['g1', 'g2']), ['g1' => true, 'g2' => true]);
    check('getServerByKey', fn () => $m->getServerByKey('group')['port'] > 0);
}

function sizes(Memcached $m): void
{
    global $binary;
    $raw = connect([Memcached::OPT_COMPRESSION => false]);
    $bytes = str_repeat("\0\r\nVALUE x", 90000);
    check('set of 900 kB', fn () => $raw->set('large', $bytes));
    check('get of 900 kB', fn () => $raw->get('large') === $bytes);
    check('set of 2 MB', fn () => with_code($raw, $raw->set('huge', str_repeat('x', 2000000))), [false, Memcached::RES_E2BIG]);
    check('after 2 MB', fn () => $raw->get('large') === $bytes);
    check('compressed', fn () => all(fn () => $m->set('zip', str_repeat('long ', 100000)), fn () => strlen($m->get('zip')))(), [true, 500000]);
    $longest = str_repeat('k', 250);
    check('longest key', fn () => all(fn () => $raw->set($longest, 'x'), fn () => $raw->get($longest))(), [true, 'x']);
    check('key too long', fn () => with_code($raw, $raw->set($longest . 'k', 'x')), [false, Memcached::RES_BAD_KEY_PROVIDED]);
    // In text libmemcached takes no others.
    check('bytes above 0x7f in a key', fn () => all(fn () => $raw->set('ключ', 'x'), fn () => $raw->get('ключ'))(),
        $binary ? [true, 'x'] : [false, false]);
}

function options(): void
{
    $prefixed = connect([Memcached::OPT_PREFIX_KEY => 'app:']);
    $plain = connect();
    check('prefix', fn () => all(fn () => $prefixed->set('p', 'x'), fn () => $plain->get('app:p'))(), [true, 'x']);
    $flagged = connect([Memcached::OPT_USER_FLAGS => 0xabc]);
    $flagged->set('flagged', 'x');
    check('user flags', fn () => $flagged->get('flagged', null, Memcached::GET_EXTENDED)['flags'], 0xabc);
    foreach (['JSON' => Memcached::SERIALIZER_JSON_ARRAY, 'igbinary' => Memcached::SERIALIZER_IGBINARY,
        'msgpack' => Memcached::SERIALIZER_MSGPACK] as $name => $serializer) {
        $m = connect([Memcached::OPT_SERIALIZER => $serializer]);
        check("serializer $name", fn () => all(fn () => $m->set("s-$name", ['x' => [1, 2]]), fn () => $m->get("s-$name"))(),
            [true, ['x' => [1, 2]]]);
    }
    $quiet = connect([Memcached::OPT_NOREPLY => true]);
    check('noreply', function () use ($quiet) {
        $quiet->set('quiet', 'stored');
        $quiet->delete('nothing');
        $quiet->add('quiet', 'not stored');
        $quiet->setOption(Memcached::OPT_NOREPLY, false);
        // Binary tells what failed, noreply or not. What arrives behind the next request libmemcached takes for its
        // answer, once: directly from a memcached 1.6.18, on a busy machine, in 78 of 500 tries (2026-11).
        return eventually(fn () => $quiet->get('quiet') === 'stored');
    });
    $buffered = connect([Memcached::OPT_BUFFER_WRITES => true]);
    check('buffered writes', function () use ($buffered, $plain) {
        for ($n = 0; $n < 100; $n++) {
            $buffered->set("buffered-$n", $n);
        }
        $buffered->flushBuffers();
        return eventually(fn () => $plain->get('buffered-99') === 99);
    });
    $unblocked = connect([Memcached::OPT_NO_BLOCK => true, Memcached::OPT_TCP_NODELAY => true]);
    check('no block', fn () => all(fn () => $unblocked->set('nb', 'x'), fn () => $unblocked->get('nb'))(), [true, 'x']);
}

function server(Memcached $m): void
{
    check('getVersion', fn () => preg_match('/^1\.6\.\d+$/', current($m->getVersion())), 1);
    check('getStats', fn () => array_key_exists('curr_items', current($m->getStats())));
    check('getStats of settings', fn () => array_key_exists('maxbytes', current($m->getStats('settings'))));
    check('getStats of items', fn () => is_array(current($m->getStats('items'))));
    check('flush', fn () => $m->flush());
    check('get of flushed', fn () => $m->get('b'), false);
    check('set after flush', fn () => all(fn () => $m->set('b', 'x'), fn () => $m->get('b'))(), [true, 'x']);
    check('quit', fn () => $m->quit());
    check('get after quit', fn () => $m->get('b'), 'x');
    $persistent = new Memcached('pool');
    $persistent->setOption(Memcached::OPT_BINARY_PROTOCOL, $GLOBALS['binary']);
    $persistent->addServer($GLOBALS['host'], (int) $GLOBALS['port']);
    check('persistent', fn () => all(fn () => $persistent->get('b'), fn () => (new Memcached('pool'))->get('b'))(), ['x', 'x']);
}

$m = connect();
storing($m);
joining();
several($m);
delayed($m);
swapping($m);
counting($m);
expiring($m);
by_key($m);
sizes($m);
options();
server($m);
