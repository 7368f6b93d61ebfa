//! One fault after the other, drawn from a seed, each while the last one may still be healing elsewhere.
//!
//! `HEAL_SEED=N HEAL_ROUNDS=100 cargo test -p magent --test e2e soak -- --nocapture` goes on for longer.

use super::super::harness::{Cluster, Memcached, number, wait_until};
use super::Scene;

/// What is done to a backend.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Killed, and started again when that is known.
    Kill,
    /// Killed and started again at once.
    Restart,
    /// Stopped until that is known.
    Hang,
    /// Stopped for a moment.
    Stutter,
}

fn backend(cluster: &mut Cluster, index: usize) -> &mut Memcached {
    let Cluster {
        primaries, backups, ..
    } = cluster;
    primaries
        .iter_mut()
        .chain(backups)
        .nth(index)
        .expect("one of five")
}

#[test]
fn one_fault_after_the_other() {
    let seed = number("HEAL_SEED", 1);
    println!("HEAL_SEED={seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut scene = Scene::start(&[]);
    let rounds = number("HEAL_ROUNDS", 6);
    for _ in 0..rounds {
        let index = rng.usize(..5);
        let fault = [Fault::Kill, Fault::Restart, Fault::Hang, Fault::Stutter][rng.usize(..4)];
        let answers = rng.u64(1..1_000);
        println!("{fault:?} {index}, then {answers} answers");
        let Scene { cluster, load, .. } = &mut scene;
        let target = backend(cluster, index);
        let endpoint = target.endpoint.clone();
        match fault {
            Fault::Kill | Fault::Restart => target.kill9(),
            Fault::Hang | Fault::Stutter => target.stop(),
        }
        match fault {
            Fault::Kill | Fault::Hang => {
                cluster.magent.wait_until_state(&endpoint, &["down"]);
                load.wait_for_answers(answers);
            }
            Fault::Restart | Fault::Stutter => {}
        }
        let target = backend(cluster, index);
        match fault {
            Fault::Kill | Fault::Restart => target.restart(),
            Fault::Hang | Fault::Stutter => target.cont(),
        }
        load.wait_for_answers(answers);
        // Only what has its items back may lose its partner; a state can lag behind by a moment.
        for _ in 0..2 {
            wait_until("all backends are up", || {
                cluster.magent.states().values().all(|state| state == "up")
            });
            load.wait_for_answers(1);
        }
    }
    scene.finish();
}
