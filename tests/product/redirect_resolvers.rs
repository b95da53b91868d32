//! The redirection learns addresses only from the resolvers that were asked, and lets pass what the door cannot place.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use entrepot_tests::agent::Agent;
use entrepot_tests::clients::Client;
use entrepot_tests::entrepot::{Entrepot, Settings};
use entrepot_tests::names;
use entrepot_tests::namespace::Namespace;
use entrepot_tests::serve::{Server, full, http};
use entrepot_tests::world::{PROXY_ADDRESS, World, address_of};
use http::Response;

const GATEWAY: &[&str] = &["gateway", "--interface", "down0"];
/// An address of the internet that is no resolver.
const FORGER: &str = "10.90.2.31:53";
/// The time in which an answer has to come.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// No other test asks for the names from here on. Agents see what all processes of the machine ask.
const FIRST: u16 = 60_000;

/// A process that asks, and the sockets of the internet that answer it.
struct Asking<'w> {
    world: &'w World,
    client: &'w Namespace,
    socket: UdpSocket,
    address: SocketAddr,
    resolver: UdpSocket,
    forger: UdpSocket,
}

impl<'w> Asking<'w> {
    fn new(world: &'w World, client: &'w Namespace, address: &str) -> Self {
        let bind = |namespace: &Namespace, address: &str| {
            let address = address.to_owned();
            let socket = namespace.run(move || UdpSocket::bind(address)).expect("an address");
            socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a deadline");
            socket
        };
        let socket = bind(client, &format!("{address}:0"));
        let address = socket.local_addr().expect("an address");
        let (resolver, forger) = (bind(&world.internet, names::NAME_SERVER), bind(&world.internet, FORGER));
        Self { world, client, socket, address, resolver, forger }
    }

    /// Sends a question to a server, and returns when it is there.
    fn ask(&self, server: &UdpSocket, question: &[u8]) {
        let (socket, server_address) = (self.socket.try_clone().expect("a socket"), server.local_addr());
        let (question, server_address) = (question.to_vec(), server_address.expect("an address"));
        self.client.run(move || socket.send_to(&question, server_address)).expect("sent");
        server.recv(&mut [0; 512]).expect("the question");
    }

    /// Sends an answer to the process, and returns when it is there.
    fn answer(&self, server: &UdpSocket, answer: &[u8]) {
        let (server, answer, address) = (server.try_clone().expect("a socket"), answer.to_vec(), self.address);
        self.world.internet.run(move || server.send_to(&answer, address)).expect("sent");
        self.socket.recv(&mut [0; 512]).expect("the answer");
    }
}

/// A question for name number `number`, and its answer.
fn message(id: u16, number: u16) -> (Vec<u8>, Vec<u8>) {
    let question = names::query(id, &names::burst_name(FIRST + number));
    let answer = names::answer(&question);
    (question, answer)
}

/// Whether the agent knows the address of name number `number`.
fn knows(agent: &Agent<'_>, number: u16) -> bool {
    let [high, low] = (FIRST + number).to_be_bytes();
    let addresses = agent.status()["addresses"].to_string();
    addresses.contains(&format!("\"{}\"", IpAddr::from([198, 18, high, low])))
}

/// Forges answers in every way, and asserts that only the real one is learned. `base` is the number of the first name.
fn only_what_was_asked_is_learned(agent: &Agent<'_>, asking: &Asking<'_>, base: u16) {
    let (resolver, forger) = (&asking.resolver, &asking.forger);
    let before = (agent.count("dns_other_resolver"), agent.count("dns_unasked"));
    let forged = |server: &UdpSocket, what: &str, number: u16, answer: &[u8]| {
        asking.answer(server, answer);
        assert!(!knows(agent, number), "{what}");
    };
    forged(forger, "a datagram from port 53 of anybody", base, &message(1, base).1);
    forged(resolver, "an answer of the resolver to no question", base, &message(1, base).1);
    let (question, answer) = message(2, base + 1);
    asking.ask(resolver, &question);
    forged(forger, "an answer from an address that was not asked", base + 1, &answer);
    forged(resolver, "an answer with another number", base + 1, &message(3, base + 1).1);
    forged(resolver, "an answer about another name", base + 2, &message(2, base + 2).1);
    asking.answer(resolver, &answer);
    assert!(knows(agent, base + 1), "the answer to the question");
    asking.answer(resolver, &answer);
    let (question, answer) = message(4, base + 3);
    asking.ask(forger, &question);
    forged(forger, "an answer of a server that is no resolver", base + 3, &answer);
    let (question, answer) = message(5, base + 4);
    asking.ask(resolver, &question);
    // The time itself is tried.
    let late = ANSWER_WITHIN + Duration::from_millis(100);
    asking.client.wait(async move { tokio::time::sleep(late).await });
    forged(resolver, "an answer that comes too late", base + 4, &answer);
    let after = (agent.count("dns_other_resolver"), agent.count("dns_unasked"));
    // The resolver's five are the three others, the real one again, because it counts once, and the late one.
    assert!(after.0 >= before.0 + 3 && after.1 >= before.1 + 5, "{before:?}, then {after:?}");
    let status = agent.command(&["status"]).expect_success("status");
    for sender in [forger, resolver] {
        let named = format!("not heard: {}", sender.local_addr().expect("an address").ip());
        assert!(status.stdout.contains(&named), "{named} is not in\n{}", status.stdout);
    }
}

#[test]
fn a_host_learns_only_from_answers_to_its_own_questions() {
    let world = World::new();
    let _entrepot = Entrepot::start(&world, Settings::new());
    let asking = Asking::new(&world, &world.proxy, "10.90.2.1");
    let agent = Agent::start(&world, &world.proxy, &Settings::new(), &[&["host"], super::RESOLVER].concat());
    assert!(agent.status()["resolvers"].to_string().contains("\"127.0.0.1\""), "that of resolv.conf too");
    only_what_was_asked_is_learned(&agent, &asking, 0);
    let learned = agent.status()["addresses"].as_array().expect("addresses").clone();
    let ages: Vec<u64> = learned.iter().filter_map(|address| address["expires_in_seconds"].as_u64()).collect();
    assert!(!ages.is_empty() && ages.iter().all(|age| *age <= 3600), "{ages:?}");
}

#[test]
fn an_address_is_kept_for_an_hour_at_most() {
    let world = World::new();
    let _entrepot = Entrepot::start(&world, Settings::new());
    let asking = Asking::new(&world, &world.proxy, "10.90.2.1");
    let agent = Agent::start(&world, &world.proxy, &Settings::new(), &[&["host"], super::RESOLVER].concat());
    let (question, mut answer) = message(1, 30);
    // The time to live of the last record: a day.
    let ttl = answer.len() - 10;
    answer[ttl..ttl + 4].copy_from_slice(&86_400u32.to_be_bytes());
    asking.ask(&asking.resolver, &question);
    asking.answer(&asking.resolver, &answer);
    assert!(knows(&agent, 30));
    let status = agent.status();
    let oldest = status["addresses"].as_array().expect("addresses").iter();
    let oldest = oldest.filter_map(|address| address["expires_in_seconds"].as_u64()).max().expect("a number");
    assert!((3000..=3600).contains(&oldest), "{oldest} s");
}

#[test]
fn a_gateway_learns_only_from_answers_to_its_clients_questions() {
    let world = World::new();
    world.route_clients();
    let _entrepot = Entrepot::start(&world, Settings::new());
    let asking = Asking::new(&world, &world.client, "10.90.1.2");
    let arguments = [GATEWAY, super::RESOLVER].concat();
    let agent = Agent::start(&world, &world.proxy, &Settings::new(), &arguments);
    assert_eq!(agent.status()["resolvers"].to_string(), "[\"10.90.2.30\"]", "only those that are named");
    only_what_was_asked_is_learned(&agent, &asking, 10);
}

#[test]
fn a_gateway_that_asks_itself_is_its_clients_resolver() {
    let world = World::new();
    world.route_clients();
    names::serve_at(&world.proxy, &format!("{PROXY_ADDRESS}:53"));
    let _entrepot = Entrepot::start(&world, Settings::new());
    let agent = Agent::start(&world, &world.proxy, &Settings::new(), GATEWAY);
    let question = message(5, 20).0;
    world.client.run(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a deadline");
        socket.send_to(&question, format!("{PROXY_ADDRESS}:53")).expect("sent");
        socket.recv(&mut [0; 512]).expect("the answer");
    });
    assert!(knows(&agent, 20));
}

/// Connects without a name, and asserts that the next connections to this address go past the door for ten minutes.
fn what_has_no_name_goes_directly(world: &World, client: &Namespace, agent: &Agent<'_>, first_is_carried_on: bool) {
    let _shop = shop(world);
    let client = Client::without_proxy(world, client, world.internet_ca());
    let unnamed = format!("https://{}/", address_of("outside.test"));
    let first = client.curl(&["-k", &unnamed]);
    assert_eq!(first.status.success(), first_is_carried_on, "{}", first.stderr);
    assert_eq!(agent.count("redirected"), 1);
    let address = format!("\"{}\"", address_of("outside.test"));
    let status =
        agent.wait_status("the address to be direct", |status| status["direct"].to_string().contains(&address));
    let left = status["direct"][0]["expires_in_seconds"].as_u64().expect("a number");
    assert!((540..=600).contains(&left), "{left} s of ten minutes");
    let page = client.curl(&["-k", &unnamed]).expect_success("directly");
    assert_eq!((page.stdout.as_str(), agent.count("redirected")), ("from the shop", 1));
    assert!(agent.count("direct") >= 1);
    let text = agent.command(&["status"]).expect_success("status").stdout;
    assert!(text.contains(&format!("direct: {}", address_of("outside.test"))), "{text}");
}

#[test]
fn an_address_without_names_is_direct_on_a_host() {
    let world = World::new();
    let _entrepot = Entrepot::start(&world, Settings::new());
    let network = format!("{}/32", address_of("outside.test"));
    let agent = Agent::start(&world, &world.proxy, &Settings::new(), &["host", "--prefix", &network]);
    what_has_no_name_goes_directly(&world, &world.proxy, &agent, true);
}

#[test]
fn an_address_without_names_is_direct_behind_a_gateway() {
    let world = World::new();
    world.route_clients();
    let _entrepot = Entrepot::start(&world, Settings::new());
    let network = format!("{}/32", address_of("outside.test"));
    let arguments = [GATEWAY, &["--prefix", &network]].concat();
    let agent = Agent::start(&world, &world.proxy, &Settings::new(), &arguments);
    what_has_no_name_goes_directly(&world, &world.client, &agent, true);
}

#[test]
fn an_address_without_names_is_direct_once_a_distant_door_has_closed_a_connection() {
    let world = World::new();
    world.route_clients();
    let _entrepot = Entrepot::start(&world, Settings::new());
    let network = format!("{}/32", address_of("outside.test"));
    let arguments = ["host", "--appliance", PROXY_ADDRESS, "--prefix", &network];
    let agent = Agent::start(&world, &world.client, &Settings::new(), &arguments);
    what_has_no_name_goes_directly(&world, &world.client, &agent, false);
}

/// A web server that is no registry.
fn shop(world: &World) -> Server {
    let address = format!("{}:443", address_of("outside.test")).parse().expect("an address");
    let tls = world.authority.server(&["outside.test"], &["http/1.1"]);
    Server::start(&world.internet, address, Some(tls), http(|_| async { Response::new(full("from the shop")) }))
}
