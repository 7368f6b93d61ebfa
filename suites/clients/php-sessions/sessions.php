<?php
// PHP's sessions, each request in a process of its own. Arguments: options of php for these processes,
// which name handler and path.
require __DIR__ . '/../php/check.php';

$options = array_slice($argv, 1);
$handler = preg_match('/save_handler=(\w+)/', implode(' ', $options), $found) ? $found[1] : '';

/** One request under way. */
class Request
{
    private $process;
    private array $pipes = [];

    public function __construct(string $action, string $id, string $argument = '', array $more = [])
    {
        global $options;
        $command = [PHP_BINARY, ...$options, ...$more, __DIR__ . '/request.php', $action, $id, $argument];
        $this->process = proc_open($command, [['pipe', 'r'], ['pipe', 'w'], STDERR], $this->pipes);
    }

    /** The next thing it says. */
    public function seen()
    {
        return json_decode((string) fgets($this->pipes[1]), true);
    }

    public function go_on(): void
    {
        fwrite($this->pipes[0], "\n");
    }

    /** Waits for its end: a session is stored after the last that it says. */
    public function end(): void
    {
        proc_close($this->process);
    }

    public function kill(): void
    {
        proc_terminate($this->process, 9);
        proc_close($this->process);
    }
}

function request(string $action, string $id, string $argument = '', array $more = [])
{
    $request = new Request($action, $id, $argument, $more);
    $seen = $request->seen();
    $request->end();
    return $seen;
}

function seen(string $id, $data, array $warnings = []): array
{
    return ['id' => $id, 'data' => $data, 'warnings' => $warnings];
}

function basics(): void
{
    check('a new session is empty', fn () => request('read', 'new'), seen('new', []));
    $data = ['user' => 7, 'cart' => ['a', 'b'], 'text' => "line\r\nend \u{416}"];
    check('write', fn () => request('write', 'basic', json_encode($data)), seen('basic', $data));
    check('read in another process', fn () => request('read', 'basic'), seen('basic', $data));
    check('read again', fn () => request('read', 'basic'), seen('basic', $data));
    check('write less', fn () => request('write', 'basic', '{"user":8}'), seen('basic', ['user' => 8]));
    check('read less', fn () => request('read', 'basic'), seen('basic', ['user' => 8]));
    check('write twice in one request', fn () => request('twice', 'basic')['warnings'], []);
    check('read both writes', fn () => request('read', 'basic'), seen('basic', ['user' => 8, 'first' => 1, 'second' => 2]));
    // One argument of a command cannot be longer than 128 KiB.
    $large = str_repeat('0123456789', 10000);
    check('write 100 kB', fn () => request('write', 'large', json_encode(['large' => $large]))['warnings'], []);
    check('read 100 kB', fn () => request('read', 'large')['data'], ['large' => $large]);
    check('sessions do not mix', fn () => request('read', 'basic')['data']['user'], 8);
    check('ten sessions side by side', function () {
        $requests = array_map(fn ($n) => new Request('write', "side-$n", "{\"n\":$n}"), range(1, 10));
        array_map(fn ($request) => $request->end(), $requests);
        $requests = array_map(fn ($n) => new Request('read', "side-$n"), range(1, 10));
        return array_map(fn ($request) => $request->seen()['data']['n'], $requests);
    }, range(1, 10));
}

/** What the server has for a session, asked without PHP: it extends nothing and waits for no lock. */
function stored(string $id): string
{
    return asked('get', $id, '', "END\r\n");
}

/** How many seconds a session has left. */
function lifetime(string $id): int
{
    return (int) substr(asked('mg', $id, ' t', "\r\n"), strlen('HD t'));
}

function asked(string $command, string $id, string $flags, string $end): string
{
    global $options, $handler;
    preg_match('/save_path=(?:tcp:\/\/)?([\d.:]+)/', implode(' ', $options), $found);
    $connection = stream_socket_client("tcp://$found[1]");
    $prefix = $handler === 'memcached' ? 'memc.sess.key.' : '';
    fwrite($connection, "$command $prefix$id$flags\r\n");
    for ($seen = ''; !str_ends_with($seen, $end);) {
        $seen .= fgets($connection);
    }
    return $seen;
}

/** Ways to end without a write. Afterwards pecl-memcache's handler still holds the lock, for 15 s. */
function no_writes(): void
{
    request('write', 'closed', '{"a":1}');
    request('write', 'aborted', '{"a":1}');
    $before = [stored('closed'), stored('aborted')];
    check('what is stored can be seen', str_contains($before[0], 'a|i:1;'));
    check('read and close', fn () => request('read and close', 'closed'), seen('closed', ['a' => 1]));
    check('abort', fn () => request('abort', 'aborted')['warnings'], []);
    check('nothing was written', fn () => [stored('closed'), stored('aborted')], $before);
}

function locks(): void
{
    global $handler;
    check('a second request waits for the first', function () {
        request('write', 'locked', '{}');
        $first = new Request('hold', 'locked');
        $started = $first->seen();
        $second = new Request('read', 'locked', '', patient());
        // It has to be waiting before the first goes on; 0.3 s is two of php-memcached's six tries.
        usleep(300000);
        $first->go_on();
        return [$started, $first->seen()['data'], $second->seen()['data'] ?? null];
    }, ['started', ['held' => true], ['held' => true]]);
    check('no lock stays behind', fn () => request('read', 'locked'), seen('locked', ['held' => true]));
    check('no increment is lost among four', function () {
        $requests = array_map(fn () => new Request('count', 'counted', '5'), range(1, 4));
        array_map(fn ($request) => $request->end(), $requests);
        return request('read', 'counted')['data'];
    }, ['count' => 20]);
    check('sessions do not wait for one another', function () {
        $first = new Request('hold', 'one');
        $first->seen();
        $other = request('read', 'other');
        $first->go_on();
        return [$other, $first->seen()['data']];
    }, [seen('other', []), ['held' => true]]);
    // pecl-memcache's handler goes on without the lock after 15 s, with an empty session that it then stores.
    if ($handler === 'memcached') {
        check('the lock of a killed process expires', function () {
            request('write', 'killed', '{"a":1}');
            $first = new Request('hold', 'killed', '', ['-d', 'memcached.sess_lock_expire=1']);
            $first->seen();
            $first->kill();
            for ($deadline = microtime(true) + 20; microtime(true) < $deadline;) {
                $seen = request('read', 'killed');
                if (isset($seen['data'])) {
                    return $seen['data'];
                }
            }
        }, ['a' => 1]);
        check('a busy lock is refused after six tries', function () {
            $first = new Request('hold', 'busy');
            $first->seen();
            $second = request('read', 'busy');
            $first->go_on();
            return [array_keys($second), $first->seen()['data']];
        }, [['refused'], ['held' => true]]);
        check('without locking nobody waits', function () {
            $first = new Request('hold', 'free', '', ['-d', 'memcached.sess_locking=0']);
            $first->seen();
            $second = request('read', 'free', '', ['-d', 'memcached.sess_locking=0']);
            $first->go_on();
            return [$second['data'], $first->seen()['data']];
        }, [[], ['held' => true]]);
    }
}

/** More tries than six, for a machine that is busy; the handler of pecl-memcache waits 15 s. */
function patient(): array
{
    return ['-d', 'memcached.sess_lock_retries=100'];
}

function new_names(): void
{
    global $handler;
    request('write', 'before', '{"a":1}');
    $kept = request('regenerate', 'before', '0');
    check('regenerate', fn () => [$kept['id'] !== 'before', $kept['data'], $kept['warnings']], [true, ['a' => 1], []]);
    check('regenerate: under its new name', fn () => request('read', $kept['id'])['data'], ['a' => 1]);
    check('regenerate keeps the old', fn () => request('read', 'before')['data'], ['a' => 1]);
    $moved = request('regenerate', 'before', '1');
    check('regenerate and delete: under its new name', fn () => request('read', $moved['id'])['data'], ['a' => 1]);
    check('regenerate and delete: the old is gone', fn () => request('read', 'before')['data'], []);
    request('write', 'ended', '{"a":1}');
    check('destroy', fn () => request('destroy', 'ended')['warnings'], []);
    check('destroyed is gone', fn () => request('read', 'ended')['data'], []);
    $strict = ['-d', 'session.use_strict_mode=1'];
    // pecl-memcache's handler does not look.
    check('strict: an unknown name is replaced', fn () => request('read', 'invented', '', $strict)['id'] !== 'invented',
        $handler === 'memcached');
    request('write', 'known', '{"a":1}');
    check('strict: a known name stays', fn () => request('read', 'known', '', $strict), seen('known', ['a' => 1]));
    $made = request('write', '', '{"b":2}', $strict);
    check('strict: a name that it made is known', fn () => request('read', $made['id'], '', $strict), seen($made['id'], ['b' => 2]));
}

/** Sessions end by themselves, and one that is only read lives on. */
function lifetimes(): void
{
    // The lifetime of each request counts, so that there is nothing to wait for.
    $lifetime = fn (int $seconds, string $lazy) => ['-d', "session.gc_maxlifetime=$seconds", '-d', "session.lazy_write=$lazy"];
    foreach (['a touch' => '1', 'a write' => '0'] as $way => $lazy) {
        request('write', "kept-$lazy", '{"a":1}', $lifetime(1000, $lazy));
        // The server's clock may be a little behind.
        check("lifetime after a write, with $way", fn () => intdiv(lifetime("kept-$lazy"), 3000), 0);
        request('read', "kept-$lazy", '', $lifetime(8000, $lazy));
        check("a read extends it by $way", fn () => intdiv(lifetime("kept-$lazy"), 3000), 2);
        check("what $way keeps", fn () => request('read', "kept-$lazy")['data'], ['a' => 1]);
    }
    request('write', 'ends', '{"a":1}', $lifetime(1, '1'));
    for ($deadline = microtime(true) + 20; microtime(true) < $deadline && stored('ends') !== "END\r\n"; usleep(50000));
    check('without a read it ends', fn () => request('read', 'ends')['data'], []);
}

basics();
no_writes();
locks();
new_names();
lifetimes();
