//! Maps the errors of AWS KMS, the SDK and the network to a class.
//!
//! The codes are those of the KMS API reference and its page of common errors. A code that is not among them is
//! classified by the HTTP status.

use std::error::Error;
use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_kms::config::http::HttpResponse;
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kms::operation::RequestId;
use aws_sdk_kms::primitives::{DateTime, DateTimeFormat};

use super::connection::PlaintextEndpoint;
use crate::{Cause, Class, KmsError};

/// How far AWS lets a request's time be off its own.
const SKEW_MAX: Duration = Duration::from_secs(5 * 60);
/// Longest `Retry-After` that is honoured.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);
/// Longest external text in a message, in characters.
const FOREIGN_CHARS_MAX: usize = 300;
/// Deepest chain of sources that is searched.
const SOURCES_MAX: usize = 16;

const UNAVAILABLE: Class = Class::Unavailable { retry_after: None };
const NOT_IN_TIME: &str = "no answer in time";
const NETWORK_REMEDY: &str = "check the network to AWS KMS and to the source of credentials";
const CLOCK_REMEDY: &str = "set the clock of this machine: AWS accepts 5 minutes of difference";

/// The request that failed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    /// The operation, as the API names it.
    pub operation: &'static str,
    /// The key, as the settings name it.
    pub key: &'a str,
    /// The wall-clock time of the answer.
    pub now: SystemTime,
}

/// A failed call.
#[derive(Debug)]
pub(super) struct Failure {
    /// The error for the caller.
    pub error: KmsError,
    /// Whether the credentials are the cause and must be reread: the SDK caches those of a file for a quarter of an hour,
    /// and an operator who has replaced them must not have to wait for that.
    pub blames_credentials: bool,
}

/// Classifies an error of the SDK.
pub(super) fn classify<E>(asked: Asked<'_>, error: &SdkError<E, HttpResponse>) -> Failure
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let failed = |class, cause, what: String, remedy: &str| Failure {
        error: KmsError::new(
            class,
            format!("AWS KMS {} of key {}: {what}", asked.operation, asked.key),
            remedy,
        )
        .from_cause(cause),
        blames_credentials: false,
    };
    match error {
        SdkError::ServiceError(context) => answered(asked, context.err(), context.raw()),
        SdkError::ResponseError(context) => {
            let status = context.raw().status().as_u16();
            let what = format!("an answer with status {status} that is not from AWS KMS");
            failed(
                by_status(context.raw()),
                Cause::NotTheKms,
                what,
                "check that endpoint_url is AWS KMS; otherwise wait for it to recover",
            )
        }
        SdkError::TimeoutError(_) => failed(UNAVAILABLE, Cause::TimedOut, NOT_IN_TIME.to_owned(), NETWORK_REMEDY),
        SdkError::DispatchFailure(context) if context.is_timeout() => {
            failed(UNAVAILABLE, Cause::TimedOut, NOT_IN_TIME.to_owned(), NETWORK_REMEDY)
        }
        // Every other error occurred before an answer: while determining credentials or the endpoint, or in the network.
        other => classify_unsent(other).map_or_else(
            || {
                failed(
                    UNAVAILABLE,
                    network_cause(other),
                    format!("no answer ({})", chain(other)),
                    "check the network to AWS KMS, endpoint_url, and the machine's trusted root certificates",
                )
            },
            |(class, cause, what, remedy)| failed(class, cause, what, remedy),
        ),
    }
}

/// Returns class, cause and remedy of a failure on this machine before a request was sent to AWS KMS.
fn classify_unsent(error: &(dyn Error + 'static)) -> Option<(Class, Cause, String, &'static str)> {
    sources(error).find_map(|source| {
        if source.is::<PlaintextEndpoint>() {
            let what = PlaintextEndpoint.to_string();
            return Some((
                Class::Misconfigured,
                Cause::Settings,
                what,
                "take the http endpoint out of AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_KMS and the profile",
            ));
        }
        source.downcast_ref().map(no_credentials)
    })
}

/// Returns the cause of a network error, as far as its text shows.
fn network_cause(error: &(dyn Error + 'static)) -> Cause {
    let text = chain(error);
    let says = |words: &str| text.contains(words);
    if says("dns error") || says("failed to lookup address") {
        Cause::NoSuchHost
    } else if says("onnection refused") {
        Cause::ConnectionRefused
    } else if says("xpired") && says("certificate") {
        Cause::ServerCertificateExpired
    } else if says("certificate") {
        Cause::ServerCertificateUntrusted
    } else {
        Cause::ConnectionLost
    }
}

pub(super) fn no_credentials(error: &CredentialsError) -> (Class, Cause, String, &'static str) {
    let text = chain(error);
    match error {
        // The SDK tries the machine's metadata service last, and reports a missing one like one that did not answer. The
        // latter is transient, so it must not count as a decision.
        CredentialsError::CredentialsNotLoaded(_) => (
            UNAVAILABLE,
            Cause::CredentialsMissing,
            format!("no credentials ({text})"),
            "give credentials by profile, environment, web identity, container or instance role",
        ),
        CredentialsError::InvalidConfiguration(_) => (
            Class::Misconfigured,
            Cause::CredentialsMissing,
            format!("the AWS configuration gives no credentials ({text})"),
            "check profile, credentials_file and the AWS configuration files",
        ),
        // The source of credentials is itself a service that can refuse, such as STS for a role. The SDK wraps that
        // answer in several types, so the text is searched for the code.
        CredentialsError::ProviderError(_) if is_refusal(&text) => (
            Class::Credential,
            Cause::LoginRefused,
            format!("the source of credentials refuses ({text})"),
            "let this identity assume the role, or renew the credentials it starts from",
        ),
        _ => (
            UNAVAILABLE,
            Cause::CredentialsMissing,
            format!("the source of credentials failed ({text})"),
            "check the source: STS, the container's or the machine's metadata, the credential process",
        ),
    }
}

fn is_refusal(text: &str) -> bool {
    const CODES: [&str; 6] = [
        "AccessDenied",
        "ExpiredToken",
        "InvalidClientTokenId",
        "InvalidIdentityToken",
        "SignatureDoesNotMatch",
        "UnrecognizedClient",
    ];
    CODES.iter().any(|code| text.contains(code))
}

/// Classifies an error answer. Its message is included only where AWS explains a decision in it; other messages can
/// contain parts of the request, as those about signatures do.
fn answered(
    asked: Asked<'_>,
    error: &impl ProvideErrorMetadata,
    response: &HttpResponse,
) -> Failure {
    let code = error.code().unwrap_or_default();
    let message = error.message().unwrap_or_default();
    let retry_after = retry_after(response);
    let mut blames_credentials = false;
    let mut shows_message = false;
    let mut cause = None;
    let (class, remedy) = match code {
        "AccessDeniedException"
        | "AccessDenied"
        | "NotAuthorized"
        | "NotAuthorizedException"
        | "OptInRequired" => {
            shows_message = true;
            (
                Class::Denied,
                "allow kms:Encrypt, Decrypt, GenerateDataKey and DescribeKey in the key's policy or the role's; if \
                 they are allowed, the wrapped key may belong to a key that this identity cannot see",
            )
        }
        "RequestTimeTooSkewed" | "RequestExpired" | "RequestInTheFuture" => {
            cause = Some(Cause::Clock);
            (Class::Misconfigured, CLOCK_REMEDY)
        }
        "SignatureDoesNotMatch" | "InvalidSignatureException"
            if blames_clock(message) || is_clock_off(response, asked.now) =>
        {
            cause = Some(Cause::Clock);
            (Class::Misconfigured, CLOCK_REMEDY)
        }
        "SignatureDoesNotMatch"
        | "InvalidSignatureException"
        | "IncompleteSignature"
        | "IncompleteSignatureException"
        | "InvalidClientTokenId"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "UnrecognizedClientException" => {
            blames_credentials = true;
            cause = Some(Cause::CredentialsUnknown);
            (
                Class::Credential,
                "check the access key and its secret: AWS does not know this pair",
            )
        }
        "ExpiredToken" | "ExpiredTokenException" => {
            blames_credentials = true;
            cause = Some(Cause::CredentialsExpired);
            (Class::Credential, "renew the session's credentials")
        }
        // This code is also returned if the key's store, or the external key manager, is unreachable: that is an outage.
        "KMSInvalidStateException" if !names_a_decision(message) => {
            shows_message = true;
            cause = Some(Cause::ServerError);
            (
                Class::Unavailable { retry_after },
                "see the key's state in AWS KMS; reconnect its key store, if it has one of its own",
            )
        }
        "DisabledException" | "KMSInvalidStateException" => {
            shows_message = true;
            (
                Class::Disabled,
                "enable the key, cancel its deletion, or reconnect its key store, in AWS KMS",
            )
        }
        "NotFoundException" => {
            shows_message = true;
            cause = Some(Cause::KeyMissing);
            (
                Class::Misconfigured,
                "check key_id, region and the account of the credentials",
            )
        }
        "InvalidCiphertextException" => (
            Class::Corrupt,
            "restore the wrapped key from a backup; it was changed, or belongs to another keyspace or cluster",
        ),
        "IncorrectKeyException" => {
            cause = Some(Cause::KeyRemade);
            (
                Class::Misconfigured,
                "set key_id to the key that wrapped this data; an alias may point at another key now",
            )
        }
        "InvalidKeyUsageException"
        | "InvalidArnException"
        | "InvalidGrantTokenException"
        | "ValidationException"
        | "UnsupportedOperationException"
        | "UnknownOperationException" => (
            Class::Misconfigured,
            "name a symmetric encryption key (SYMMETRIC_DEFAULT) in key_id",
        ),
        "ThrottlingException"
        | "Throttling"
        | "ThrottledException"
        | "RequestThrottled"
        | "RequestThrottledException"
        | "TooManyRequestsException"
        | "LimitExceededException"
        | "RequestLimitExceeded"
        | "SlowDown" => (
            Class::Throttled { retry_after },
            "wait, or raise the account's quota of cryptographic operations",
        ),
        "KMSInternalException"
        | "DependencyTimeoutException"
        | "KeyUnavailableException"
        | "InternalFailure"
        | "InternalError"
        | "RequestTimeout"
        | "RequestTimeoutException"
        | "ServiceUnavailable"
        | "ServiceUnavailableException" => {
            cause = Some(Cause::ServerError);
            (
                Class::Unavailable { retry_after },
                "wait for AWS KMS to recover",
            )
        }
        _ => {
            let class = by_status(response);
            // It may concern the credentials, and rereading them is cheap.
            blames_credentials = matches!(response.status().as_u16(), 401 | 403);
            if code.is_empty() {
                cause = Some(Cause::NotTheKms);
            }
            (
                class,
                "look the code up among the errors of AWS KMS; without one, check that endpoint_url is AWS KMS",
            )
        }
    };
    let mut what = format!("AWS KMS {} of key {}: ", asked.operation, asked.key);
    match sanitize_external(code) {
        code if code.is_empty() => what.push_str("an error without a code"),
        code => what.push_str(&code),
    }
    let _ = write!(what, ", status {}", response.status().as_u16());
    if let Some(id) = response.request_id().filter(|id| is_request_id(id)) {
        let _ = write!(what, ", request {id}");
    }
    if shows_message && !message.is_empty() {
        let _ = write!(what, " ({})", sanitize_external(message));
    }
    let error = KmsError::new(class, what, remedy);
    Failure {
        error: match cause {
            Some(cause) => error.from_cause(cause),
            None => error,
        },
        blames_credentials,
    }
}

fn by_status(response: &HttpResponse) -> Class {
    let retry_after = retry_after(response);
    match response.status().as_u16() {
        // Without a known code it may come from a proxy, and is not a decision of AWS KMS.
        401 | 403 => Class::Unavailable { retry_after },
        408 => Class::Unavailable { retry_after },
        429 => Class::Throttled { retry_after },
        400..=499 => Class::Misconfigured,
        _ => Class::Unavailable { retry_after },
    }
}

/// Parses `Retry-After` in seconds. AWS does not use its other form, a date.
fn retry_after(response: &HttpResponse) -> Option<Duration> {
    let seconds: u64 = response.headers().get("retry-after")?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

/// Returns `true` if the message names a state that an administrator has put the key into: `ARN is pending deletion.`
fn names_a_decision(message: &str) -> bool {
    const STATES: [&str; 4] = [
        "is disabled",
        "is pending deletion",
        "is pending import",
        "is pending replica deletion",
    ];
    STATES.iter().any(|state| message.contains(state))
}

/// Returns `true` for the two messages of AWS about the clock: "Signature expired: ..." and "Signature not yet current:
/// ...".
fn blames_clock(message: &str) -> bool {
    message.starts_with("Signature expired") || message.starts_with("Signature not yet current")
}

/// Returns `true` if the date of the answer differs too much from this machine's.
fn is_clock_off(response: &HttpResponse, now: SystemTime) -> bool {
    let theirs = response
        .headers()
        .get("date")
        .and_then(|date| DateTime::from_str(date, DateTimeFormat::HttpDate).ok());
    let ours = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    theirs
        .and_then(|theirs| u64::try_from(theirs.secs()).ok())
        .is_some_and(|theirs| ours.abs_diff(theirs) > SKEW_MAX.as_secs())
}

fn is_request_id(id: &str) -> bool {
    (1..=64).contains(&id.len())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Returns an error and its sources, outermost first.
fn sources<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        next = error.source();
        Some(error)
    })
    .take(SOURCES_MAX)
}

/// Returns the messages of an error and its sources, outermost first. Their `Debug` output would contain more than is
/// suitable for a log.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    for error in sources(error) {
        let said = error.to_string();
        // Many errors repeat their source's message.
        if !text.ends_with(&said) {
            let colon = if text.is_empty() { "" } else { ": " };
            let _ = write!(text, "{colon}{said}");
        }
    }
    sanitize_external(&text)
}

/// Returns external text on one line, truncated.
fn sanitize_external(text: &str) -> String {
    text.chars()
        .map(|character| {
            if character.is_control() {
                ' '
            } else {
                character
            }
        })
        .take(FOREIGN_CHARS_MAX)
        .collect()
}

#[cfg(test)]
mod tests;
