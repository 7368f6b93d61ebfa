<?php
// A site of one page, for PHP's own web server: says how often its visitor has been here.
session_start();
$_SESSION['views'] = ($_SESSION['views'] ?? 0) + 1;
echo $_SESSION['views'];
