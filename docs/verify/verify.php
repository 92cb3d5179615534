<?php
// Verify checks the signature of a callback of Weir. As a program:
//
//   WEIR_CALLBACK_SECRET=… php verify.php TIMESTAMP ID SIGNATURE < body

// $timestamp, $id and $signature are the headers Weir-Timestamp, Weir-Event-Id
// and Weir-Signature ($_SERVER['HTTP_WEIR_TIMESTAMP'] and so on); $body is
// file_get_contents('php://input').
function weir_verify(string $secret, string $timestamp, string $id, string $signature, string $body): bool
{
    if (!ctype_digit($timestamp) || abs(time() - (int) $timestamp) > 300) {
        return false; // too old to be believed
    }
    $want = 'v1=' . hash_hmac('sha256', "$timestamp.$id.$body", $secret);
    return hash_equals($want, $signature);
}

if (PHP_SAPI === 'cli' && realpath($argv[0]) === __FILE__) {
    $ok = weir_verify(getenv('WEIR_CALLBACK_SECRET'), $argv[1], $argv[2], $argv[3], file_get_contents('php://stdin'));
    echo $ok ? "ok\n" : "wrong\n";
    exit($ok ? 0 : 1);
}
