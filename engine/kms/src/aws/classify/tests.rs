use aws_sdk_kms::error::ErrorMetadata;
use aws_sdk_kms::operation::decrypt::DecryptError;

use super::*;

/// 2026-01-01T00:00:00Z.
const NOW_UNIX_S: u64 = 1_767_225_600;

fn asked() -> Asked<'static> {
    Asked {
        operation: "Decrypt",
        key: "alias/keyway",
        now: UNIX_EPOCH + Duration::from_secs(NOW_UNIX_S),
    }
}

fn response(status: u16, headers: &[(&'static str, &'static str)]) -> HttpResponse {
    let mut response = HttpResponse::new(status.try_into().unwrap(), "".into());
    for (name, value) in headers {
        response.headers_mut().insert(*name, *value);
    }
    response
}

fn answer(code: &str, message: &str, response: HttpResponse) -> Failure {
    let metadata = ErrorMetadata::builder().code(code).message(message).build();
    let error = DecryptError::generic(metadata);
    classify(asked(), &SdkError::service_error(error, response))
}

#[test]
fn every_documented_code_has_its_class() {
    let throttled = Class::Throttled { retry_after: None };
    let table = [
        ("AccessDeniedException", 400, Class::Denied),
        ("UnrecognizedClientException", 400, Class::Credential),
        ("InvalidClientTokenId", 403, Class::Credential),
        ("SignatureDoesNotMatch", 403, Class::Credential),
        ("InvalidSignatureException", 400, Class::Credential),
        ("IncompleteSignature", 400, Class::Credential),
        ("MissingAuthenticationToken", 403, Class::Credential),
        ("ExpiredTokenException", 400, Class::Credential),
        ("OptInRequired", 403, Class::Denied),
        ("RequestExpired", 400, Class::Misconfigured),
        ("RequestTimeTooSkewed", 403, Class::Misconfigured),
        ("DisabledException", 400, Class::Disabled),
        ("KMSInvalidStateException", 400, UNAVAILABLE),
        ("NotFoundException", 400, Class::Misconfigured),
        ("InvalidArnException", 400, Class::Misconfigured),
        ("InvalidCiphertextException", 400, Class::Corrupt),
        ("IncorrectKeyException", 400, Class::Misconfigured),
        ("InvalidKeyUsageException", 400, Class::Misconfigured),
        ("ValidationException", 400, Class::Misconfigured),
        ("ThrottlingException", 400, throttled),
        ("LimitExceededException", 400, throttled),
        ("RequestLimitExceeded", 503, throttled),
        ("KMSInternalException", 500, UNAVAILABLE),
        ("DependencyTimeoutException", 500, UNAVAILABLE),
        ("KeyUnavailableException", 500, UNAVAILABLE),
        ("InternalFailure", 500, UNAVAILABLE),
        ("ServiceUnavailable", 503, UNAVAILABLE),
    ];
    for (code, status, class) in table {
        let failure = answer(code, "", response(status, &[]));
        assert_eq!(failure.error.class(), class, "{}", failure.error);
        assert!(failure.error.what().contains(code), "{}", failure.error);
        assert!(
            failure.error.what().contains("alias/keyway"),
            "{}",
            failure.error
        );
    }
}

/// Keys in an external key store were wiped when the connection to it failed, since AWS has one code for that and for a
/// key that will be deleted.
#[test]
fn a_key_store_that_is_away_is_no_decision_about_its_key() {
    let key = "arn:aws:kms:eu-central-1:123456789012:key/bc436485";
    for (state, class) in [
        ("is pending deletion.", Class::Disabled),
        ("is pending import.", Class::Disabled),
        ("is disabled.", Class::Disabled),
        ("is unavailable.", UNAVAILABLE),
        ("is creating.", UNAVAILABLE),
        (
            "KMS cannot communicate with the external key store proxy. This might be a transient networking issue.",
            UNAVAILABLE,
        ),
        ("The external key store proxy did not respond", UNAVAILABLE),
    ] {
        let message = format!("{key} {state}");
        let failure = answer("KMSInvalidStateException", &message, response(400, &[]));
        assert_eq!(failure.error.class(), class, "{}", failure.error);
        assert!(failure.error.what().contains(state), "{}", failure.error);
    }
}

#[test]
fn an_unknown_code_goes_by_its_status() {
    let table = [
        (400, Class::Misconfigured),
        (401, UNAVAILABLE),
        (403, UNAVAILABLE),
        (404, Class::Misconfigured),
        (408, UNAVAILABLE),
        (429, Class::Throttled { retry_after: None }),
        (500, UNAVAILABLE),
        (503, UNAVAILABLE),
    ];
    for (status, class) in table {
        for code in ["", "Teapot", "\u{7}\n<html>"] {
            let error = answer(code, "", response(status, &[])).error;
            assert_eq!(error.class(), class, "{error}");
            assert!(!error.to_string().contains(char::is_control), "{error}");
        }
    }
}

#[test]
fn a_wait_that_is_asked_for_is_passed_on_within_reason() {
    let table = [
        ("7", Some(7)),
        (" 7 ", Some(7)),
        ("99999999999", Some(3600)),
        ("-1", None),
        ("soon", None),
    ];
    for (header, wait_s) in table {
        let failure = answer(
            "ThrottlingException",
            "",
            response(400, &[("retry-after", header)]),
        );
        let retry_after = wait_s.map(Duration::from_secs);
        assert_eq!(
            failure.error.class(),
            Class::Throttled { retry_after },
            "{header}"
        );
    }
}

#[test]
fn a_wrong_clock_is_told_from_a_wrong_key() {
    let right = ("date", "Thu, 01 Jan 2026 00:04:00 GMT");
    let fast = ("date", "Wed, 31 Dec 2025 23:50:00 GMT");
    let slow = ("date", "Thu, 01 Jan 2026 00:06:00 GMT");
    let bad = ("date", "yesterday");
    let expired = "Signature expired: 20260101T000000Z is now earlier than 20260101T000500Z";
    let early = "Signature not yet current: 20260101T001000Z is still later than 20260101T000500Z";
    let table = [
        ("no", right, Class::Credential),
        ("no", bad, Class::Credential),
        ("no", fast, Class::Misconfigured),
        ("no", slow, Class::Misconfigured),
        (expired, right, Class::Misconfigured),
        (early, right, Class::Misconfigured),
    ];
    for code in ["SignatureDoesNotMatch", "InvalidSignatureException"] {
        for (message, date, class) in table {
            let failure = answer(code, message, response(403, &[date]));
            assert_eq!(failure.error.class(), class, "{code} {message} {date:?}");
            let says_clock = failure.error.remedy().starts_with("set the clock");
            assert_eq!(says_clock, class == Class::Misconfigured);
            assert_eq!(failure.blames_credentials, class == Class::Credential);
        }
    }
}

#[test]
fn a_signatures_message_is_kept_out_and_a_decisions_is_shown() {
    let secret = "x-amz-security-token:hunter2";
    for code in [
        "InvalidSignatureException",
        "IncompleteSignature",
        "ValidationException",
        "Unknown",
    ] {
        let error = answer(code, secret, response(400, &[])).error;
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
    let error = answer(
        "AccessDeniedException",
        "User: a is not\nauthorized",
        response(400, &[]),
    )
    .error;
    assert!(
        error.what().ends_with("(User: a is not authorized)"),
        "{error}"
    );
}

#[test]
fn credentials_that_are_not_found_are_no_decision_and_a_bad_configuration_is_one() {
    let denied = "service error: AccessDenied: User is not authorized to perform sts:AssumeRole";
    let table = [
        (
            CredentialsError::not_loaded("none in the chain"),
            UNAVAILABLE,
        ),
        (
            CredentialsError::invalid_configuration("no such profile"),
            Class::Misconfigured,
        ),
        (CredentialsError::provider_error(denied), Class::Credential),
        (
            CredentialsError::provider_error("STS answers 503"),
            UNAVAILABLE,
        ),
        (
            CredentialsError::provider_timed_out(Duration::from_secs(1)),
            UNAVAILABLE,
        ),
        (CredentialsError::unhandled("not UTF-8"), UNAVAILABLE),
    ];
    for (error, class) in table {
        let said = chain(&error);
        let failure = classify(
            asked(),
            &SdkError::<DecryptError, _>::construction_failure(error),
        );
        assert_eq!(failure.error.class(), class, "{said}");
        assert!(failure.error.what().contains(&said), "{}", failure.error);
    }
}

#[test]
fn an_endpoint_in_the_clear_and_a_late_answer_are_told_apart() {
    let clear = SdkError::<DecryptError, _>::construction_failure(PlaintextEndpoint);
    assert_eq!(
        classify(asked(), &clear).error.class(),
        Class::Misconfigured
    );
    let late = SdkError::<DecryptError, _>::timeout_error("late");
    assert_eq!(classify(asked(), &late).error.class(), UNAVAILABLE);
    let html = SdkError::<DecryptError, _>::response_error("no JSON", response(200, &[]));
    assert_eq!(classify(asked(), &html).error.class(), UNAVAILABLE);
}
