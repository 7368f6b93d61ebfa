<?php
// One web request, with no web server: does ACTION in the session SID and prints what it saw as JSON.
// Each line that it reads from standard input lets it go on from a place where it says so.
[, $action, $id] = $argv;

// Under a web server a session's cookies and headers are sent; here they are not looked at.
ini_set('session.use_cookies', '0');
ini_set('session.use_only_cookies', '0');
ini_set('session.cache_limiter', '');
$warnings = [];
set_error_handler(function (int $level, string $message) use (&$warnings): bool {
    $warnings[] = $message;
    return true;
}, E_ALL & ~E_DEPRECATED);

function say($seen): void
{
    echo json_encode($seen), "\n";
}

function start(): void
{
    global $warnings;
    if (!session_start()) {
        say(['refused' => $warnings]);
        exit;
    }
}

if ($id !== '') {
    session_id($id);
}
switch ($action) {
    case 'write':
        start();
        $_SESSION = json_decode($argv[3], true);
        session_write_close();
        break;
    case 'read':
        start();
        break;
    case 'read and close':
        session_start(['read_and_close' => true]);
        break;
    case 'hold':
        start();
        say('started');
        fgets(STDIN);
        $_SESSION['held'] = true;
        session_write_close();
        break;
    case 'count':
        for ($n = 0; $n < (int) $argv[3]; $n++) {
            // Refused while others hold the lock for too long.
            while (!session_start());
            $_SESSION['count'] = ($_SESSION['count'] ?? 0) + 1;
            session_write_close();
        }
        $warnings = [];
        break;
    case 'regenerate':
        start();
        session_regenerate_id((bool) $argv[3]);
        session_write_close();
        break;
    case 'destroy':
        start();
        session_destroy();
        break;
    case 'abort':
        start();
        $_SESSION['aborted'] = true;
        session_abort();
        break;
    case 'twice':
        start();
        $_SESSION['first'] = 1;
        session_write_close();
        start();
        $_SESSION['second'] = 2;
        session_write_close();
        break;
}
say(['id' => session_id(), 'data' => $_SESSION ?? null, 'warnings' => $warnings]);
