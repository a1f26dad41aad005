//! The key epochs of transactions, on the wire.
use palinurus_repository::{Draw, Error, KeyEpoch, Result, Sealed, TransactionId};

use crate::v1;

pub fn to_wire(sealed: Vec<Sealed>) -> Vec<v1::KeyEpoch> {
    let wire = sealed.into_iter().map(|Sealed { epoch, transactions }| v1::KeyEpoch {
        number: epoch.number,
        draw: epoch.draw.as_bytes().to_vec().into(),
        transactions: transactions.iter().flat_map(|id| id.0).collect::<Vec<u8>>().into(),
    });
    wire.collect()
}

pub fn sealed(wire: &[v1::KeyEpoch]) -> Result<Vec<Sealed>> {
    let sealed = wire.iter().map(|epoch| {
        let (ids, rest) = epoch.transactions.as_chunks::<{ TransactionId::LEN }>();
        if epoch.number == 0 || !rest.is_empty() {
            return Err(Error::invalid("a key epoch of no transactions"));
        }
        Ok(Sealed {
            epoch: KeyEpoch { number: epoch.number, draw: Draw::from_slice(&epoch.draw)? },
            transactions: ids.iter().map(|id| TransactionId(*id)).collect(),
        })
    });
    sealed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let transactions = vec![TransactionId([1; 16]), TransactionId([2; 16])];
        let all = vec![Sealed { epoch: KeyEpoch { number: 3, draw: Draw([7; 8]) }, transactions }];
        let wire = to_wire(all.clone());
        assert_eq!(sealed(&wire).ok(), Some(all));
        let bad = |change: fn(&mut v1::KeyEpoch)| {
            let mut wire = wire.clone();
            wire.iter_mut().for_each(change);
            sealed(&wire).is_err()
        };
        assert!(bad(|epoch| epoch.number = 0) && bad(|epoch| epoch.draw = vec![1; 7].into()));
        assert!(bad(|epoch| epoch.transactions = vec![1; 17].into()));
    }
}
