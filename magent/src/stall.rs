//! Time in which the process stood still: it was stopped, its machine was, or others had the processors.
//!
//! Meanwhile the clock went on, and so may have the backends. What they said waits in our sockets; what they were to be
//! told, nobody has sent. So no limit of time runs out for that: else a pause of a second would make all backends of a
//! busy proxy silent ones, and their items misses.
//!
//! Not here: what is put off (`magent_core::engine::Input::Stalled`, `magent_core::heal::Input::Stalled`).

use std::pin::pin;
use std::time::{Duration, Instant};

use magent_core::Time;

/// A turn that took longer than this, or a wait that ended so much later than it should, was not up to us.
const STALL: Duration = Duration::from_millis(10);

/// For how long the process stood still between `began`, when its last turn did, and `awake`: it had fallen `asleep` in
/// between, until something happens or `due`. That it slept on although something had happened cannot be seen before
/// `due`.
pub(crate) fn stalled_ns(began: Time, asleep: Time, due: Option<Time>, awake: Time) -> u64 {
    let busy_ns = asleep.0.saturating_sub(began.0);
    let late_ns = due.map_or(0, |due| awake.0.saturating_sub(due.max(asleep).0));
    let is_stall = |ns: &u64| Duration::from_nanos(*ns) > STALL;
    [busy_ns, late_ns].into_iter().filter(is_stall).sum()
}

/// What comes of `asking` within `limit`; `None` if nothing does. As often as the limit runs out much too late, it begins
/// anew.
pub(crate) async fn within<T>(limit: Duration, asking: impl Future<Output = T>) -> Option<T> {
    let mut asking = pin!(asking);
    loop {
        let began = Instant::now();
        if let Ok(answer) = tokio::time::timeout(limit, &mut asking).await {
            return Some(answer);
        }
        if began.elapsed() <= limit + STALL {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_is_in_a_turn_or_behind_the_end_of_a_wait() {
        let ms = |ms: u64| Time(ms * 1_000_000);
        let stalled_ms = |asleep, due: Option<u64>, awake| {
            stalled_ns(ms(100), ms(asleep), due.map(ms), ms(awake)) / 1_000_000
        };
        assert_eq!(stalled_ms(101, Some(150), 120), 0, "something came");
        assert_eq!(stalled_ms(101, Some(150), 151), 0, "nothing came");
        assert_eq!(stalled_ms(101, None, 900), 0, "nothing was waited for");
        assert_eq!(stalled_ms(101, Some(150), 850), 700);
        assert_eq!(stalled_ms(801, Some(850), 802), 701);
        assert_eq!(
            stalled_ms(801, Some(150), 802),
            701,
            "it had not begun to wait"
        );
        assert_eq!(stalled_ms(801, Some(150), 1_801), 1_701);
    }

    #[test]
    fn a_limit_that_runs_out_too_late_begins_anew() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let limit = Duration::from_millis(40);
        runtime.block_on(async {
            assert_eq!(within(limit, async { 1 }).await, Some(1));
            // Answered soon, but the thread has been busy with other things for longer than the limit.
            let asking = async {
                tokio::task::yield_now().await;
                let until = Instant::now() + 5 * limit;
                while Instant::now() < until {
                    std::hint::spin_loop();
                }
                tokio::time::sleep(limit / 4).await;
                1
            };
            assert_eq!(within(limit, asking).await, Some(1));
            let nobody = std::future::pending::<()>();
            assert_eq!(within(limit, nobody).await, None);
        });
    }
}
