use super::*;
use alloc::string::ToString;
use alloc::vec::Vec;

/// Parses and sets one setting.
fn set(settings: &mut Settings, name: &str, value: &str) -> Result<(), SettingsError> {
    settings.put(Setting::parse(name, value)?);
    Ok(())
}

fn broken(settings: &Settings) -> &'static str {
    settings
        .validate()
        .expect_err("these settings conflict")
        .name
}

#[test]
fn defaults_are_the_documented_ones_and_valid() {
    let settings = Settings::default();
    assert_eq!(settings.validate(), Ok(()));
    let listed: Vec<_> = settings
        .iter()
        .map(|(name, value)| alloc::format!("{}={value}", name.as_str()))
        .collect();
    assert_eq!(
        listed,
        [
            "soft_ttl_ms=600000",
            "hard_ttl_ms=3600000",
            "dek_lease_ms=3600000",
            "refresh_window_ms=120000",
            "low_water_pct=5",
            "max_in_flight=64",
            "sign_wait_budget_us=3000",
            "on_soft_expiry=wait",
            "jitter_pct=10",
            "delete_wait_ms=0",
        ]
    );
}

#[test]
fn refresh_window_follows_the_soft_ttl_until_it_is_set() {
    let mut settings = Settings::default();
    set(&mut settings, "soft_ttl_ms", "1000").unwrap();
    assert_eq!(settings.refresh_window_ms(), 200);
    set(&mut settings, "refreshWindow", "300").unwrap();
    set(&mut settings, "soft_ttl_ms", "2000").unwrap();
    assert_eq!(settings.refresh_window_ms(), 300);
    set(&mut settings, "refresh_window_ms", "auto").unwrap();
    assert_eq!(settings.refresh_window_ms(), 400);
}

#[test]
fn runbook_aliases_are_accepted() {
    let mut settings = Settings::default();
    set(&mut settings, "signWaitBudget", "5000").unwrap();
    set(&mut settings, "LowWater", "7").unwrap();
    set(&mut settings, "maxInFlight", "0").unwrap();
    assert_eq!(settings.sign_wait_budget_us, 5_000);
    assert_eq!(settings.low_water_pct, 7);
    assert_eq!(settings.max_in_flight, 0);
}

#[test]
fn stored_values_restore_the_same_settings() {
    let mut settings = Settings {
        soft_ttl_ms: 5_000,
        ..Settings::default()
    };
    set(&mut settings, "on_soft_expiry", "serve_stale").unwrap();
    for explicit in [None, Some(77)] {
        settings.refresh_window_ms = explicit;
        let mut again = Settings::default();
        for name in SettingName::ALL {
            let stored = settings.get(*name).to_string();
            set(&mut again, name.as_str(), &stored).unwrap();
        }
        assert_eq!(again, settings);
    }
}

#[test]
fn invalid_values_change_nothing() {
    let mut settings = Settings::default();
    for (name, value) in [
        ("soft_ttl_ms", ""),
        ("soft_ttl_ms", "+5"),
        ("soft_ttl_ms", "5s"),
        ("soft_ttl_ms", "99999999999999999999999"),
        ("max_in_flight", "-1"),
        ("low_water_pct", "101"),
        ("jitter_pct", "300"),
        ("on_soft_expiry", "sometimes"),
        ("soft_ttl", "5"),
    ] {
        let error = set(&mut settings, name, value).expect_err("the value is unreadable");
        assert!(alloc::format!("{error}").contains("refused"));
    }
    assert_eq!(settings, Settings::default());
}

#[test]
fn conflicts_name_the_setting_and_the_rule() {
    let base = Settings::default;
    assert_eq!(
        broken(&Settings {
            soft_ttl_ms: 0,
            ..base()
        }),
        "soft_ttl_ms"
    );
    assert_eq!(
        broken(&Settings {
            soft_ttl_ms: u64::MAX,
            ..base()
        }),
        "soft_ttl_ms"
    );
    assert_eq!(
        broken(&Settings {
            hard_ttl_ms: 599_999,
            ..base()
        }),
        "hard_ttl_ms"
    );
    assert_eq!(
        broken(&Settings {
            dek_lease_ms: 99,
            ..base()
        }),
        "dek_lease_ms"
    );
    assert_eq!(
        broken(&Settings {
            jitter_pct: 51,
            ..base()
        }),
        "jitter_pct"
    );
    assert_eq!(
        broken(&Settings {
            refresh_window_ms: Some(600_000),
            ..base()
        }),
        "refresh_window_ms"
    );
    assert_eq!(
        broken(&Settings {
            refresh_window_ms: Some(540_000),
            ..base()
        }),
        "refresh_window_ms"
    );
    assert_eq!(
        broken(&Settings {
            low_water_pct: 21,
            ..base()
        }),
        "low_water_pct"
    );
    assert_eq!(
        broken(&Settings {
            max_in_flight: 65_537,
            ..base()
        }),
        "max_in_flight"
    );
    assert_eq!(
        broken(&Settings {
            sign_wait_budget_us: 1_000_001,
            ..base()
        }),
        "sign_wait_budget_us"
    );
    let error = Settings {
        hard_ttl_ms: 10,
        ..base()
    }
    .validate()
    .unwrap_err();
    assert_eq!(
        alloc::format!("{error}"),
        "hard_ttl_ms=10 is refused: soft_ttl_ms <= hard_ttl_ms"
    );
}

#[test]
fn zero_refresh_window_is_allowed_with_zero_low_water() {
    let settings = Settings {
        refresh_window_ms: Some(0),
        low_water_pct: 0,
        ..Settings::default()
    };
    assert_eq!(settings.validate(), Ok(()));
}

#[test]
fn on_soft_expiry_can_be_reset() {
    let mut settings = Settings::default();
    for (value, policy) in [
        ("serve_stale", OnSoftExpiry::ServeStale),
        ("wait", OnSoftExpiry::Wait),
    ] {
        set(&mut settings, "on_soft_expiry", value).unwrap();
        assert_eq!(settings.on_soft_expiry, policy);
    }
}
