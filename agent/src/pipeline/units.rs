//! Units on their way to the workers, who share the end that they come out of.
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Mutex, PoisonError, TryLockError};

use super::unit::Unit;

#[derive(Debug)]
pub(crate) struct Units<T = Unit>(Mutex<Receiver<T>>);

impl<T> Units<T> {
    pub(crate) fn new(units: Receiver<T>) -> Self {
        Self(Mutex::new(units))
    }

    /// One that is there. Never waits: who waits in [`next`](Self::next) holds the lock, and a worker that waited for it here, with
    /// what it has read unsettled, would keep the feeder from sending what both wait for.
    pub(crate) fn at_once(&self) -> Result<T, TryRecvError> {
        match self.0.try_lock() {
            Ok(units) => units.try_recv(),
            Err(TryLockError::Poisoned(units)) => units.into_inner().try_recv(),
            Err(TryLockError::WouldBlock) => Err(TryRecvError::Empty),
        }
    }

    /// Waits for one; none is left and none will come.
    pub(crate) fn next(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::sync_channel;
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn nobody_waits_for_who_waits() {
        let (feeder, units) = sync_channel::<u8>(1);
        let units = Arc::new(Units::new(units));
        let other = units.clone();
        let waiting = thread::spawn(move || (other.next(), other.next()));
        while units.0.try_lock().is_ok() {
            thread::yield_now();
        }
        let (say, said) = sync_channel(1);
        let looks = units.clone();
        thread::spawn(move || say.send(looks.at_once()));
        assert_eq!(said.recv_timeout(Duration::from_secs(60)), Ok(Err(TryRecvError::Empty)));
        feeder.send(7).unwrap();
        drop(feeder);
        assert_eq!(waiting.join().unwrap(), (Some(7), None));
        assert_eq!(units.at_once(), Err(TryRecvError::Disconnected));
    }
}
