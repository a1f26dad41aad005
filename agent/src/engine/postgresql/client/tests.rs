//! Against bytes of a server that is none: what is hostile or cut must end in an error, never in a panic or a wait.
use proptest::prelude::*;

use super::*;

fn client(stream: impl Io + 'static) -> Client {
    Client { stream: Box::new(stream), input: BytesMut::new(), backend: 0 }
}

#[tokio::test]
async fn rows_come_in_pieces_and_errors_with_their_hint() {
    let (mut server, ours) = tokio::io::duplex(7);
    let mut client = client(ours);
    let told = tokio::spawn(async move {
        let mut query = [0; 5 + 9];
        server.read_exact(&mut query).await.unwrap();
        for part in [
            &b"D\0\0\0\x11\0\x02\0\0\0\x03abc\xff\xff\xff\xff"[..],
            b"C\0\0\0\x0dSELECT 1\0",
            b"Z\0\0\0\x05I",
        ] {
            server.write_all(part).await.unwrap();
        }
        server.read_exact(&mut query).await.unwrap();
        server.write_all(b"E\0\0\0\x26SERROR\0C28000\0Mno way\0Hask first\0\0Z\0\0\0\x05I").await.unwrap();
        server
    });
    assert_eq!(client.query("select 1").await.unwrap(), [vec![Some("abc".to_owned()), None]]);
    let error = client.query("select 1").await.unwrap_err();
    assert_eq!((error.kind(), error.hint()), (ErrorKind::Denied, Some("ask first")));
    assert!(error.what().contains("no way"), "{error:?}");
    drop(told.await.unwrap());
    assert_eq!(client.query("select 1").await.unwrap_err().kind(), ErrorKind::Unavailable);
}

proptest! {
    #[test]
    fn anything_may_answer(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (mut server, ours) = tokio::io::duplex(1 << 16);
            server.write_all(&bytes).await.unwrap();
            server.shutdown().await.unwrap();
            let mut client = client(ours);
            // Ends, however it ends: the stream does.
            let _ = client.query("x").await;
        });
    }
}
