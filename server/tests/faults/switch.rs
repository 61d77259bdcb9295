//! Carries what members say to each other and to clients, on IP packets: each member has a network namespace with a
//! TUN device, and what goes into one comes out of another here, after it has suffered what the network says.
//!
//! A network in the test itself takes no kernel module (many kernels lack netem) and does exactly what the table
//! says: packets are lost, late, out of order, or cut in one direction, with TCP's own answer to that.
//!
//! Namespaces end with the switch, devices with the process. What a killed process has left is removed by the next one.

use std::collections::BinaryHeap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::cluster::MEMBERS;
use crate::network::Network;

const NAME: &str = "keelson-faults";
/// The last byte of the clients' address, and of the first member's.
const CLIENTS: u8 = 1;
const FIRST_MEMBER: u8 = 11;
const PACKET_BYTES_MAX: usize = 64 << 10;
/// Where an IPv4 header tells the last bytes of the two addresses.
const SOURCE_OFFSET: usize = 15;
const TARGET_OFFSET: usize = 19;
/// How often threads look whether all is over.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A network of three members and of those who ask them.
#[derive(Debug)]
pub struct Switch {
    subnet: String,
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Switch {
    /// Makes namespaces and devices, and begins to carry. The error says what is missing.
    pub fn lay(network: &Network) -> Result<Switch, String> {
        // SAFETY: geteuid takes nothing and only returns a number.
        if unsafe { libc::geteuid() } != 0 {
            return Err("namespaces need root".to_owned());
        }
        if Command::new("ip").arg("-V").output().is_err() {
            return Err("there is no `ip`: install the package iproute2".to_owned());
        }
        if !Path::new("/dev/net/tun").exists() {
            return Err("there is no /dev/net/tun: `modprobe tun`".to_owned());
        }
        sweep();
        let pid = std::process::id();
        let mut switch = Switch {
            subnet: format!("10.213.{}", pid % 250),
            is_over: Arc::default(),
            threads: Vec::new(),
        };
        let mut ends = vec![Arc::new(tun(&format!("kf{pid}c"))?)];
        switch.address(None, &format!("kf{pid}c"), CLIENTS)?;
        for index in 0..MEMBERS {
            let (space, device) = (namespace(pid, index), format!("kf{pid}n{index}"));
            ip(&["netns", "add", &space])?;
            ends.push(Arc::new(tun(&device)?));
            ip(&["link", "set", &device, "netns", &space])?;
            ip(&["-n", &space, "link", "set", "lo", "up"])?;
            switch.address(Some(&space), &device, FIRST_MEMBER + index as u8)?;
        }
        switch.carry(ends, network);
        Ok(switch)
    }

    fn address(&self, space: Option<&str>, device: &str, last: u8) -> Result<(), String> {
        let address = format!("{}.{last}/24", self.subnet);
        let within: Vec<&str> = space.map_or(Vec::new(), |space| vec!["-n", space]);
        ip(&[&within[..], &["addr", "add", &address, "dev", device]].concat())?;
        ip(&[&within[..], &["link", "set", device, "up"]].concat())
    }

    /// A member's IP address.
    pub fn member_address(&self, index: usize) -> String {
        format!("{}.{}", self.subnet, FIRST_MEMBER + index as u8)
    }

    /// What a command begins with that is to run where a member lives.
    pub fn wrapper(&self, index: usize) -> Vec<String> {
        let space = namespace(std::process::id(), index);
        ["ip", "netns", "exec", &space].map(str::to_owned).to_vec()
    }

    fn carry(&mut self, ends: Vec<Arc<File>>, network: &Network) {
        let (late, waiting) = mpsc::channel();
        for end in &ends {
            let carrier = Carrier {
                end: Arc::clone(end),
                ends: ends.clone(),
                network: network.clone(),
                late: late.clone(),
                is_over: Arc::clone(&self.is_over),
            };
            let thread = std::thread::spawn(move || carrier.run());
            self.threads.push(thread);
        }
        let thread = std::thread::spawn(move || deliver(&waiting));
        self.threads.push(thread);
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            // It can only have panicked, and said so.
            let _ = thread.join();
        }
        for index in 0..MEMBERS {
            // What is left is removed by the next run.
            let _ = ip(&["netns", "del", &namespace(std::process::id(), index)]);
        }
    }
}

fn namespace(pid: u32, index: usize) -> String {
    format!("{NAME}-{pid}-{index}")
}

fn ip(words: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(words).output();
    let output = output.map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("ip {}: {}", words.join(" "), said.trim()))
}

/// Removes namespaces of processes that are no more.
fn sweep() {
    let output = Command::new("ip").args(["netns", "list"]).output();
    let listed = output.map_or(Vec::new(), |output| output.stdout);
    for line in String::from_utf8_lossy(&listed).lines() {
        let space = line.split(' ').next().unwrap_or_default();
        let pid = space
            .strip_prefix(NAME)
            .and_then(|rest| rest.split('-').nth(1));
        if let Some(pid) = pid
            && !Path::new("/proc").join(pid).exists()
        {
            // Then somebody else has removed it.
            let _ = ip(&["netns", "del", space]);
        }
    }
}

/// A TUN device, which lives as long as the file.
fn tun(name: &str) -> Result<File, String> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .map_err(|error| format!("/dev/net/tun: {error}"))?;
    // SAFETY: an interface request is plain bytes, for which zeros are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    assert!(name.len() < request.ifr_name.len(), "{name} is too long");
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the descriptor is open, and the kernel reads and writes one interface request.
    let set = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    match set {
        0 => Ok(file),
        _ => Err(format!("{name}: {}", std::io::Error::last_os_error())),
    }
}

/// What carries the packets that come out of one namespace.
struct Carrier {
    end: Arc<File>,
    ends: Vec<Arc<File>>,
    network: Network,
    late: Sender<Late>,
    is_over: Arc<AtomicBool>,
}

impl Carrier {
    fn run(self) {
        let mut packet = vec![0; PACKET_BYTES_MAX];
        while !self.is_over.load(Ordering::SeqCst) {
            let mut poll = libc::pollfd {
                fd: self.end.as_raw_fd(),
                events: libc::POLLIN,
                revents: 0,
            };
            let wait_ms = LOOK_EVERY.as_millis() as libc::c_int;
            // SAFETY: one descriptor that is open is asked for.
            let ready = unsafe { libc::poll(&raw mut poll, 1, wait_ms) };
            if ready <= 0 {
                continue;
            }
            // A device that is down for a moment gives errors.
            if let Ok(count) = (&*self.end).read(&mut packet) {
                self.pass(&packet[..count]);
            }
        }
    }

    fn pass(&self, packet: &[u8]) {
        if packet.len() <= TARGET_OFFSET || packet[0] >> 4 != 4 {
            return;
        }
        let (from, to) = (place(packet[SOURCE_OFFSET]), place(packet[TARGET_OFFSET]));
        let (Some(from), Some(to)) = (from, to) else {
            return;
        };
        let weather = self.network.weather(from.checked_sub(1), to.checked_sub(1));
        if weather.is_cut || fastrand::u32(0..1000) < weather.loss_permille {
            return;
        }
        let delay = weather.delay + weather.jitter.mul_f64(fastrand::f64());
        if delay.is_zero() {
            return send(&self.ends[to], packet);
        }
        let late = Late {
            due: Instant::now() + delay,
            end: Arc::clone(&self.ends[to]),
            packet: packet.to_vec(),
        };
        // The other side has ended only if all is over.
        let _ = self.late.send(late);
    }
}

/// Which end has this address: 0 for the clients, then the members.
fn place(last: u8) -> Option<usize> {
    match last {
        CLIENTS => Some(0),
        _ => {
            let member = usize::from(last.checked_sub(FIRST_MEMBER)?);
            (member < MEMBERS).then_some(member + 1)
        }
    }
}

/// A packet that cannot be delivered is lost, as packets are.
fn send(mut end: &File, packet: &[u8]) {
    let _ = end.write(packet);
}

/// A packet that arrives later.
struct Late {
    due: Instant,
    end: Arc<File>,
    packet: Vec<u8>,
}

impl Ord for Late {
    /// The first one due is the greatest.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.due.cmp(&self.due)
    }
}

impl PartialOrd for Late {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Late {
    fn eq(&self, other: &Self) -> bool {
        self.due == other.due
    }
}

impl Eq for Late {}

fn deliver(waiting: &Receiver<Late>) {
    let mut queue: BinaryHeap<Late> = BinaryHeap::new();
    loop {
        let now = Instant::now();
        while queue.peek().is_some_and(|late| late.due <= now) {
            let late = queue.pop().expect("it was there");
            send(&late.end, &late.packet);
        }
        let next = queue.peek().map(|late| late.due - now);
        match waiting.recv_timeout(next.unwrap_or(LOOK_EVERY)) {
            Ok(late) => queue.push(late),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
