#!/usr/bin/env php
<?php
// Sessions of php-memcached with nothing set but save_handler and save_path, so in the binary protocol: host,
// port, and perhaps a step. Without a step it runs them all, each in a process of its own.
[, $host, $port] = $argv;
ini_set('session.save_handler', 'memcached');
ini_set('session.save_path', "$host:$port");
// There is no browser: what is said here must not count as a page already begun.
ob_start();
ini_set('session.use_cookies', '0');
ini_set('session.cache_limiter', '');

function check(string $what, $seen, $expected): void
{
    if ($seen !== $expected) {
        fwrite(STDERR, "$what: " . var_export($seen, true) . ', expected ' . var_export($expected, true) . "\n");
        exit(1);
    }
    echo "ok $what\n";
}

/** Whether another process, which is told a step and its arguments, is content. */
function elsewhere(string ...$step): bool
{
    global $argv;
    $words = array_map('escapeshellarg', [PHP_BINARY, $argv[0], $argv[1], $argv[2], ...$step]);
    exec(implode(' ', $words) . ' 2>&1', $said, $status);
    echo implode("\n", $said), "\n";
    return $status === 0;
}

function begin(string $id): bool
{
    session_id($id);
    return session_start();
}

switch ($argv[3] ?? 'all') {
    case 'count':
        // One more page view: the session knows of so many.
        check('start', begin($argv[4]), true);
        check('views', $_SESSION['count'] ?? 0, (int) $argv[5]);
        $_SESSION['count'] = (int) $argv[5] + 1;
        check('close', session_write_close(), true);
        exit(0);
    case 'busy':
        check('start of a session that another process has open', @begin($argv[4]), false);
        exit(0);
    case 'read':
        // Nothing is changed, so the session is only touched.
        check('start', begin($argv[4]), true);
        check('data', $_SESSION['data'] ?? null, $argv[5] === '' ? null : $argv[5]);
        check('close', session_write_close(), true);
        exit(0);
}

check('a new session', elsewhere('count', 'first', '0'), true);
check('another process', elsewhere('count', 'first', '1'), true);
check('start', begin('second'), true);
$_SESSION['data'] = "any\r\nbytes \0";
check('one process at a time', elsewhere('busy', 'second'), true);
check('close', session_write_close(), true);
check('start again', begin('second'), true);
check('data', $_SESSION['data'], "any\r\nbytes \0");
$_SESSION['data'] = 'text';
check('close again', session_write_close(), true);
check('reading it', elsewhere('read', 'second', 'text'), true);
check('reading it once more', elsewhere('read', 'second', 'text'), true);
check('start of a session to be renamed', begin('third'), true);
$_SESSION['data'] = 'moved';
check('another id', session_regenerate_id(true), true);
$id = session_id();
check('close after that', session_write_close(), true);
check('its data', elsewhere('read', $id, 'moved'), true);
check('nothing under its old id', elsewhere('read', 'third', ''), true);
ini_set('session.use_strict_mode', '1');
check('start of an unknown session in strict mode', begin('unknown'), true);
check('its id is another', session_id() !== 'unknown', true);
session_write_close();
check('start of a known one in strict mode', begin('second'), true);
check('its id stays', session_id(), 'second');
check('destroyed', session_destroy(), true);
ini_set('session.use_strict_mode', '0');
check('nothing is left', elsewhere('read', 'second', ''), true);
