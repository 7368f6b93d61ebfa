//! Jump consistent hash, the default of memcached's built-in proxy.
//!
//! John Lamping and Eric Veach, "A Fast, Minimal Memory, Consistent Hash Algorithm", 2014,
//! <https://arxiv.org/abs/1406.2294>. Only the last server can be added or removed without moving
//! more keys than need be: it numbers servers, it does not know them.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// memcached's: over xxh3 of the key with the pool's seed.
pub(super) fn server_of(key: &[u8], seed: u64, server_count: u32) -> usize {
    jump(xxh3_64_with_seed(key, seed), server_count)
}

/// Jumps ahead to the next number of servers at which this key would move, until that is more
/// than there are.
fn jump(mut hash: u64, server_count: u32) -> usize {
    let mut server = 0;
    let mut next = 0;
    while next < u64::from(server_count) {
        server = next;
        hash = hash.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "positive, and a server_count below 2^16 times 2^31 is below 2^53"
        )]
        {
            let span = (1u64 << 31) as f64 / ((hash >> 33) + 1) as f64;
            next = ((server + 1) as f64 * span) as u64;
        }
    }
    usize::try_from(server).expect("below server_count")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The paper's promise: growing by one moves keys to the added server only.
    #[test]
    fn growing_moves_keys_only_to_the_added_server() {
        for hash in (0..2_000u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
            for server_count in 1..50 {
                let before = jump(hash, server_count);
                let after = jump(hash, server_count + 1);
                assert!(after == before || after == server_count as usize, "{hash}");
            }
        }
    }
}
