//! Backends that come back with what they held, or with what another one held.

use super::super::harness::Cluster;
use super::super::harness::Memcached;
use super::{ANSWERS, Scene, log_lines};

#[test]
fn a_primary_is_restarted_with_its_items() {
    let mut cluster = Cluster::start(3, 2, &[]);
    let warm = Memcached::start_warm();
    cluster.primaries[0].kill9();
    cluster.primaries[0].replace_by(warm);
    cluster.magent.wait_until_healed();
    let mut scene = Scene::with(cluster);
    let held = scene.cluster.primaries[0].items();
    let load = &scene.load;
    scene.cluster.primaries[0].restart_warm(|| load.wait_for_answers(ANSWERS));
    assert!(!held.is_empty());
    scene.finish();
}

#[test]
fn another_memcached_with_other_items_takes_the_address() {
    let mut scene = Scene::start(&[]);
    // What a failed-over address or a mixed-up container brings: values for keys in use, and keys that
    // were deleted.
    let other = Memcached::start_warm();
    let mut client = other.client();
    let keys = scene
        .items
        .keys()
        .filter(|key| key.is_ascii())
        .filter_map(|key| std::str::from_utf8(key).ok());
    for key in keys
        .filter(|key| !key.contains(char::is_whitespace))
        .take(1_000)
    {
        client.set(key, b"of another site");
    }
    for id in 0..4 {
        for index in 0..64 {
            client.set(&format!("load-{id}-{index}"), b"of another site");
        }
    }
    for n in 0..100 {
        client.set(&format!("never-stored-{n}"), b"of another site");
    }
    scene.kill(|cluster| &mut cluster.primaries[2]);
    scene.cluster.primaries[2].replace_by(other);
    assert!(
        scene.cluster.primaries[2].stat("cmd_set") < 1_000,
        "it was started with its items"
    );
    scene.cluster.magent.wait_until_healed();
    let mut client = scene.cluster.magent.client();
    for n in 0..100 {
        assert_eq!(client.get(&format!("never-stored-{n}")), None);
    }
    assert_eq!(log_lines(&scene.cluster.magent, "flushing it").len(), 1);
    scene.finish();
}
