//! The article's own test, and the command line that it starts magent with.

use super::harness::{Cluster, Memcached, run_script};

/// Which of snsgou1 … snsgou6 each of `backends` holds, the proxy not asked.
fn held(backends: &[Memcached]) -> Vec<Vec<u32>> {
    let holds = |backend: &Memcached, n: &u32| backend.value(&format!("snsgou{n}")).is_some();
    backends
        .iter()
        .map(|backend| (1..=6).filter(|n| holds(backend, n)).collect())
        .collect()
}

#[test]
fn php_memcache_adds_land_in_the_articles_groups() {
    let cluster = Cluster::start(3, 2, &[]);
    let address = cluster.magent.endpoint.tcp();
    run_script(
        "php-memcache/article.php",
        &[&address.ip().to_string(), &address.port().to_string()],
    );
    // The article names the groups, not the servers: 6,3 / 4,1 / 5,2 and 5,3,1 / 4,6,2. The order is
    // that of the modulo over the lists, as in the golden vectors of magent 0.6.
    assert_eq!(
        held(&cluster.primaries),
        [vec![2, 5], vec![3, 6], vec![1, 4]]
    );
    assert_eq!(held(&cluster.backups), [vec![2, 4, 6], vec![1, 3, 5]]);
}

#[test]
fn a_get_whose_primary_is_down_is_answered_from_the_backup() {
    let mut cluster = Cluster::start(3, 2, &[]);
    let mut client = cluster.magent.client();
    for n in 1..=6 {
        client.set(&format!("snsgou{n}"), format!("value {n}").as_bytes());
    }
    cluster.primaries[1].kill9();
    for n in 1..=6 {
        assert_eq!(
            client.get(&format!("snsgou{n}")),
            Some(format!("value {n}").into_bytes())
        );
    }
}
