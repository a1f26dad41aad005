//! Objects too large for one request: parts, and a last call that makes them an object or does not.
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};

use super::{Condition, MARK, S3Storage, error};
use crate::clock::Timestamp;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::remote::Remote;

/// At least 5 MiB is asked for, and at most 10,000 parts are.
const PART: usize = 16 << 20;
const PARTS_AT_ONCE: usize = 4;
/// An upload that began so long ago is nobody's any more.
const ABANDONED: std::time::Duration = std::time::Duration::from_secs(24 * 3600);
const PAGE: i32 = 1000;

impl S3Storage {
    pub(super) async fn put_parts(&self, key: &str, body: &Bytes, condition: &Condition<'_>) -> Result<()> {
        let upload = self.begin(key, condition).await?;
        let outcome = match self.send_parts(key, &upload, body).await {
            Ok(parts) => self.complete(key, &upload, parts, condition).await,
            Err(e) => Err(e),
        };
        if let Err(e) = &outcome {
            // If this fails too, tidying does it tomorrow.
            if let Err(abort) = self.abort(key, &upload).await {
                tracing::debug!(key, error = abort.chain(), cause = e.chain(), "the parts stay for now");
            }
        }
        outcome
    }

    async fn begin(&self, key: &str, condition: &Condition<'_>) -> Result<String> {
        let call = self.call("s3:PutObject", key);
        self.sent.puts.add(1);
        let mut request = self.client().await?.create_multipart_upload().bucket(&self.settings.bucket);
        request = request.key(self.name(key)).set_checksum_algorithm(self.settings.checksum.clone());
        if let Condition::Absent(mark) = condition {
            request = request.metadata(MARK, mark.text());
        }
        let begun = self.ask(&call, 0, request.send()).await?;
        begun.upload_id.ok_or_else(|| Error::unavailable(format!("{call}: no upload id came")))
    }

    async fn send_parts(&self, key: &str, upload: &str, body: &Bytes) -> Result<Vec<CompletedPart>> {
        let parts = (0..body.len()).step_by(PART).zip(1..);
        stream::iter(parts)
            .map(|(from, number)| {
                let part = body.slice(from..body.len().min(from + PART));
                self.send_part(key, upload, number, part)
            })
            .buffered(PARTS_AT_ONCE)
            .try_collect()
            .await
    }

    async fn send_part(&self, key: &str, upload: &str, number: i32, part: Bytes) -> Result<CompletedPart> {
        let call = self.call("s3:PutObject", key);
        self.sent.puts.add(1);
        let bytes = part.len() as u64;
        let request = self.client().await?.upload_part().bucket(&self.settings.bucket).key(self.name(key));
        let request = request
            .upload_id(upload)
            .part_number(number)
            .set_checksum_algorithm(self.settings.checksum.clone())
            .body(part.into());
        let sent = if self.settings.unsigned {
            self.ask(&call, bytes, request.customize().disable_payload_signing().send()).await?
        } else {
            self.ask(&call, bytes, request.send()).await?
        };
        Ok(CompletedPart::builder()
            .part_number(number)
            .set_e_tag(sent.e_tag)
            .set_checksum_crc32(sent.checksum_crc32)
            .set_checksum_crc32_c(sent.checksum_crc32_c)
            .set_checksum_sha256(sent.checksum_sha256)
            .build())
    }

    async fn complete(
        &self,
        key: &str,
        upload: &str,
        parts: Vec<CompletedPart>,
        condition: &Condition<'_>,
    ) -> Result<()> {
        let call = self.call("s3:PutObject", key);
        self.sent.puts.add(1);
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let mut request = self.client().await?.complete_multipart_upload().bucket(&self.settings.bucket);
        request = request.key(self.name(key)).upload_id(upload).multipart_upload(parts);
        if let Condition::Absent(_) = condition {
            request = request.if_none_match("*");
        }
        match self.answer(&call, 0, request.send()).await? {
            Ok(_) => Ok(()),
            Err(e) => Err(match error::answer(&e) {
                // The request may have come twice, and the first have ended the upload: our mark tells.
                Some((412, _) | (404, "NoSuchUpload")) => self.exists(key),
                _ => self.failed(&call, e),
            }),
        }
    }

    async fn abort(&self, key: &str, upload: &str) -> Result<()> {
        let call = self.call("s3:AbortMultipartUpload", key);
        self.sent.deletes.add(1);
        let request = self.client().await?.abort_multipart_upload().bucket(&self.settings.bucket);
        let request = request.key(self.name(key)).upload_id(upload);
        match self.ask(&call, 0, request.send()).await {
            Ok(_) => Ok(()),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Ends the uploads under our prefix that nobody will end.
    pub(super) async fn tidy_parts(&self, now: Timestamp) -> Result<u64> {
        let (mut key_marker, mut id_marker, mut ended) = (None, None, 0);
        loop {
            let call = self.call("s3:ListBucketMultipartUploads", "unfinished uploads");
            self.sent.lists.add(1);
            let request = self.client().await?.list_multipart_uploads().bucket(&self.settings.bucket);
            let request = request
                .prefix(&self.settings.prefix)
                .max_uploads(PAGE)
                .set_key_marker(key_marker.take())
                .set_upload_id_marker(id_marker.take());
            let page = self.ask(&call, 0, request.send()).await?;
            for upload in page.uploads() {
                let begun =
                    upload.initiated().and_then(|at| at.to_millis().ok()).and_then(|at| at.try_into().ok());
                let old = begun.is_some_and(|at| now.since(Timestamp(at)) > ABANDONED);
                if let (true, Some(key), Some(id)) =
                    (old, upload.key().and_then(|key| self.ours(key)), upload.upload_id())
                {
                    self.abort(key, id).await?;
                    ended += 1;
                }
            }
            (key_marker, id_marker) = (page.next_key_marker, page.next_upload_id_marker);
            if page.is_truncated != Some(true) || key_marker.is_none() {
                return Ok(ended);
            }
        }
    }
}
