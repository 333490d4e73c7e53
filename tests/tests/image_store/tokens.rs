//! A login by tokens, with the real registry checking them.

use std::{fs, path::Path, sync::Arc, time::SystemTime};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use goliath_agent::{config::ImageConfig, image::ImageErrorKind};
use goliath_lab::{
    oci_image::{OciImage, Packing},
    registry::{PASSWORD, Registry, RegistryOptions, TokenService, USER},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::{Store, chain, pulls::credentials, raw_disk};

const SERVICE: &str = "lab-tokens";

/// Signs tokens (RFC 7519, ES256) for those who know the password.
struct Signer {
    key: EcdsaKeyPair,
    certificate: Vec<u8>,
}

impl Signer {
    /// Writes its certificate to a file.
    fn new(certificate: &Path) -> Self {
        let made = rcgen::generate_simple_self_signed(vec![SERVICE.to_owned()]).unwrap();
        fs::write(certificate, made.cert.pem()).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, made.signing_key.serialized_der());
        Self { key: key.unwrap(), certificate: made.cert.der().to_vec() }
    }

    fn token(&self, actions: &[&str]) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let header = json!({"typ": "JWT", "alg": "ES256", "x5c": [STANDARD.encode(&self.certificate)]});
        let access = json!([{"type": "repository", "name": "team/guest", "actions": actions}]);
        let claims = json!({
            "iss": SERVICE, "aud": SERVICE, "sub": USER, "jti": "1", "access": access,
            "iat": now, "nbf": now - 60, "exp": now + 600,
        });
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(&header), encode(&claims));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// Answers on a port of its own as long as the runtime exists.
async fn token_service(signer: Arc<Signer>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let login = format!("authorization: basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")).to_lowercase());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 8 << 10];
            let count = stream.read(&mut head).await.unwrap();
            let head = String::from_utf8_lossy(&head[..count]).into_owned();
            let asked = head.contains("scope=repository%3Ateam%2Fguest%3Apull") && head.contains(SERVICE);
            let (status, body) = match head.to_lowercase().contains(&login) {
                true if asked => ("200 OK", json!({"token": signer.token(&["pull"])})),
                true => ("400 Bad Request", json!({})),
                false => ("401 Unauthorized", json!({"errors": [{"message": "wrong password"}]})),
            };
            let body = body.to_string();
            let answer = format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_with_a_token_service_opens_to_those_who_may() {
    let directory = tempfile::tempdir().unwrap();
    let certificate = directory.path().join("tokens.crt");
    let signer = Arc::new(Signer::new(&certificate));
    let service = token_service(Arc::clone(&signer)).await;
    let realm = format!("http://{service}/token");
    let options = RegistryOptions {
        token_service: Some(TokenService { realm: &realm, name: SERVICE, certificate: &certificate }),
        ..RegistryOptions::default()
    };
    let registry = Registry::start_with(&options).unwrap().with_token(signer.token(&["pull", "push"]));
    let image = OciImage::container(&[("disk/guest.raw", &raw_disk(2))], Packing::Gzip).unwrap();
    let reference = registry.push("team/guest", "v1", &image).await.unwrap();

    let pull = async |password: &str, plain_http: &[&str]| {
        let (_directory, path) = credentials(registry.address(), USER, password);
        let store = Store::open_with(&ImageConfig {
            plain_http: plain_http.iter().map(ToString::to_string).collect(),
            credentials: Some(path),
            ..ImageConfig::default()
        });
        store.pull(&reference).await.map(|_| ()).map_err(|error| (error.kind(), chain(&error)))
    };
    pull(PASSWORD, &[registry.address(), &service]).await.unwrap();
    let (kind, said) = pull("wrong", &[registry.address(), &service]).await.unwrap_err();
    assert_eq!(kind, ImageErrorKind::Unauthorized);
    assert!(said.contains("wrong password"), "{said}");
    // The password does not go where TLS is missing and nobody allowed that.
    let (kind, said) = pull(PASSWORD, &[registry.address()]).await.unwrap_err();
    assert_eq!(kind, ImageErrorKind::Misconfigured);
    assert!(said.contains("without TLS"), "{said}");
}
