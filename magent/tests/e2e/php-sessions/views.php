#!/usr/bin/env php
<?php
// Page views without end, each a session of its own: handler, host, port, binary or text, seed, and a file whose
// appearance ends it. Says "ok" per view, "shared ID COUNT" for one of a session that others view as well, and
// "wrong WHAT" for whatever a site's visitor would have noticed.
[, $handler, $host, $port, $protocol, $seed, $end] = $argv;
ini_set('session.save_handler', $handler);
// By default pecl-memcache gives up after a second, which a busy machine may well take.
ini_set('session.save_path', $handler === 'memcache' ? "tcp://$host:$port?timeout=30" : "$host:$port");
if ($protocol === 'text') {
    ini_set('memcached.sess_binary_protocol', '0');
}
// There is no browser.
ini_set('session.use_cookies', '0');
ini_set('session.cache_limiter', '');
mt_srand((int) $seed);
$said = fopen('php://stdout', 'w');
ob_start();

function say(string $line): void
{
    global $said;
    fwrite($said, "$line\n");
}

function wrong(string $what): void
{
    say('wrong ' . date('H:i:s') . sprintf('.%03d ', fmod(microtime(true), 1) * 1000) . strtr($what, "\n", ' '));
}

set_error_handler(function (int $level, string $message): bool {
    wrong($message);
    return true;
}, E_ALL & ~E_DEPRECATED);

/** Does $what in the session; its id is then what this returns. Null if it could not be started. */
function view(string $id, callable $what): ?string
{
    $_SESSION = [];
    session_id($id);
    $started_at = microtime(true);
    if (!session_start()) {
        wrong(sprintf('%s did not start in %.3f s', $id, microtime(true) - $started_at));
        return null;
    }
    $what();
    $id = session_id();
    if (session_status() === PHP_SESSION_ACTIVE && !session_write_close()) {
        wrong("$id was not written");
    }
    return $id;
}

/** The session's counter is as expected. */
function expect_count(int $expected): void
{
    $seen = $_SESSION['count'] ?? 0;
    if ($seen !== $expected) {
        wrong(session_id() . ": $seen views, not $expected");
    }
}

/** A visitor of its own. */
function own(int $kind, array &$visitor): void
{
    [$id, $count] = $visitor;
    if ($kind < 40) {
        view($id, function () use ($count) {
            expect_count($count);
            $_SESSION['count'] = $count + 1;
        });
        $visitor = [$id, $count + 1];
    } elseif ($kind < 60) {
        // Nothing is changed, so the session is only touched.
        view($id, fn () => expect_count($count));
    } elseif ($kind < 70) {
        $new = view($id, function () use ($count) {
            expect_count($count);
            if (!session_regenerate_id(true)) {
                wrong('no other id');
            }
        });
        view($id, fn () => expect_count(0) ?? session_destroy());
        $visitor = [$new ?? $id, $count];
    } elseif ($kind < 75) {
        view($id, function () use ($count) {
            expect_count($count);
            if (!session_destroy()) {
                wrong('not destroyed');
            }
        });
        $visitor = [$id, 0];
    } else {
        // The handler of pecl-memcache does not look whether a session is known.
        ini_set('session.use_strict_mode', '1');
        $new = view($id, fn () => expect_count($count));
        ini_set('session.use_strict_mode', '0');
        $is_known = $new === $id || $GLOBALS['handler'] === 'memcache';
        if ($new !== null && !$is_known && $count > 0) {
            wrong("$id was taken for unknown");
        }
        $visitor = [$new ?? $id, $count];
    }
}

/** A visitor that the other processes have as well. */
function shared(int $number): void
{
    // They wait for one another; php-memcached gives up after 0.75 s by default.
    ini_set('memcached.sess_lock_wait_min', '5');
    ini_set('memcached.sess_lock_wait_max', '20');
    ini_set('memcached.sess_lock_retries', '1000');
    $count = null;
    view("shared-$number", function () use (&$count) {
        $count = $_SESSION['count'] = ($_SESSION['count'] ?? 0) + 1;
    });
    foreach (['wait_min', 'wait_max', 'retries'] as $name) {
        ini_restore("memcached.sess_lock_$name");
    }
    if ($count !== null) {
        say("shared $number $count");
    }
}

$visitors = [];
for ($n = 0; $n < 5; $n++) {
    $visitors[] = ["visitor-$seed-$n", 0];
}
while (!file_exists($end)) {
    clearstatcache();
    if (mt_rand(0, 3) === 0) {
        shared(mt_rand(1, 2));
    } else {
        own(mt_rand(0, 99), $visitors[mt_rand(0, 4)]);
    }
    say('ok');
}
