//! The coordinator as a whole, spoken to as operators and agents speak to it: real gRPC over loopback, a repository
//! in a folder, and peers that do an agent's part with data of their own making.
#![allow(missing_debug_implementations)]

mod backup;
mod peer;
mod recovery;
mod restore;
mod session;
mod world;
