//! The golden conversations over real sockets, by the same checker that plays them in simulation.

#[path = "../talk/mod.rs"]
mod talk;

use crate::support::{DEADLINE, TestServer};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use suzu::config::Config;
use suzu::model::Registry;
use talk::{Talk, Transport};

struct Sockets {
    addr: SocketAddr,
    streams: Vec<TcpStream>,
}

fn told(error: std::io::Error) -> String {
    error.to_string()
}

impl Transport for Sockets {
    fn open(&mut self) -> Result<(), String> {
        let stream = TcpStream::connect_timeout(&self.addr, DEADLINE).map_err(told)?;
        stream.set_read_timeout(Some(DEADLINE)).map_err(told)?;
        stream.set_nodelay(true).map_err(told)?;
        self.streams.push(stream);
        Ok(())
    }

    fn send(&mut self, connection: usize, bytes: &[u8]) -> Result<(), String> {
        self.streams[connection].write_all(bytes).map_err(told)
    }

    fn half_close(&mut self, connection: usize) -> Result<(), String> {
        self.streams[connection].shutdown(Shutdown::Write).map_err(told)
    }

    fn receive(&mut self, connection: usize) -> Result<Vec<u8>, String> {
        let mut bytes = vec![0; 64 * 1024];
        match self.streams[connection].read(&mut bytes) {
            Ok(count) => {
                bytes.truncate(count);
                Ok(bytes)
            }
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(Vec::new()),
            Err(error) => Err(told(error)),
        }
    }
}

/// Plays each against a server of its own; `start` tells where to connect.
fn play_all(start: impl Fn(Config) -> (TestServer, SocketAddr)) {
    let talks = Talk::all();
    assert!(talks.len() >= 8);
    for talk in talks {
        let (_server, addr) = start(Config { port: 0, ..talk.config() });
        if let Err(what) = talk.play(&mut Sockets { addr, streams: Vec::new() }) {
            panic!("{what}");
        }
    }
}

#[test]
fn the_golden_conversations_hold_over_real_sockets() {
    play_all(|config| {
        let server = TestServer::start_with(config, Registry::builtin());
        let addr = server.addr;
        (server, addr)
    });
}

#[cfg(feature = "tls")]
#[test]
fn the_golden_conversations_hold_by_tls() {
    let certificates = crate::bridge::Certificates::new();
    play_all(|config| {
        let server = TestServer::start_bare(certificates.on(config), Registry::builtin());
        let addr = certificates.bridge(server.addr);
        (server, addr)
    });
}
