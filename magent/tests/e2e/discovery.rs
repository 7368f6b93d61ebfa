//! Clients find the proxies by themselves, and do without one that is gone.

use super::harness::{Cluster, Endpoint, Magent, endpoints, free_endpoint, run_script};

/// `--advertise` of both.
fn advertising(proxies: &[Endpoint]) -> Vec<String> {
    let list: Vec<String> = proxies
        .iter()
        .map(|proxy| proxy.tcp().to_string())
        .collect();
    ["--advertise", &list.join(","), "--advertise-version", "1"]
        .map(str::to_owned)
        .to_vec()
}

#[test]
fn a_client_discovers_two_proxies_and_goes_on_with_one() {
    let cluster = Cluster::start_patient(3, 2, &[]);
    let proxies = [free_endpoint(), free_endpoint()];
    let mut started = proxies.clone().map(|endpoint| {
        let servers = |flag: &str, servers: &[_]| {
            let servers = endpoints(servers);
            let words = servers
                .iter()
                .flat_map(|server| [flag.to_owned(), server.to_string()]);
            words.collect::<Vec<_>>()
        };
        let args = [
            servers("-s", &cluster.primaries),
            servers("-b", &cluster.backups),
            advertising(&proxies),
        ];
        Magent::start_at(endpoint, &args.concat())
    });
    let first = proxies[0].tcp();
    run_script(
        "python-pymemcache/discovery.py",
        &[
            &first.ip().to_string(),
            &first.port().to_string(),
            &started[1].pid().to_string(),
        ],
    );
    // The script has killed it; this is how the harness hears of it.
    started[1].kill9();
}
