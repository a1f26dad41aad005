//! A bucket with Object Lock. Made by the AWS client that moto brings along.
use super::{Server, command, tool};

const BUCKET: &str = "locked";

/// Every object is kept for a day, also from who made the bucket.
const MAKE: &str = r#"
import sys, boto3
from botocore.config import Config
endpoint, bucket, identity, secret = sys.argv[1:]
s3 = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id=identity,
    aws_secret_access_key=secret, config=Config(s3={"addressing_style": "path"}))
s3.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
s3.put_object_lock_configuration(Bucket=bucket, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled",
    "Rule": {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 1}}})
"#;

impl Server {
    /// In a bucket with Object Lock, which is made by this.
    pub fn locked_url(&self, prefix: &str) -> String {
        let endpoint = format!("http://{}", self.address);
        let mut python = command(tool("venv/bin/python"));
        let made = python.args(["-c", MAKE, &endpoint, BUCKET, "labkey", "labsecret"]).output().unwrap();
        assert!(made.status.success(), "no bucket: {}", String::from_utf8_lossy(&made.stderr));
        let (before, after) = (format!("s3://{}/", self.container), format!("s3://{BUCKET}/"));
        self.url(prefix).replacen(&before, &after, 1)
    }
}
