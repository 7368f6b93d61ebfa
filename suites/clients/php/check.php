<?php
// What the PHP scripts say of each case: "ok NAME" or "not ok NAME # why", as cases.py reads it.

// Warnings are part of an answer: one that nobody expects fails the case.
set_error_handler(function (int $level, string $message): bool {
    throw new ErrorException($message);
}, E_ALL & ~E_DEPRECATED);

function check(string $name, $seen, $expected = true): void
{
    try {
        if ($seen instanceof Closure) {
            $seen = $seen();
        }
        $detail = $seen === $expected ? null : shown($seen) . ', expected ' . shown($expected);
    } catch (Throwable $error) {
        $detail = get_class($error) . ': ' . $error->getMessage();
    }
    echo $detail === null ? "ok $name\n" : "not ok $name # $detail\n";
}

function shown($value): string
{
    return substr(str_replace("\n", ' ', var_export($value, true)), 0, 300);
}
