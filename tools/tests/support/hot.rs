//! The server's hot keys. By waiters it has counted all requests; by rehydrate time there are none.

use keyway_protocol::{HotBy, KeyspaceHot};

pub fn document(hot: &KeyspaceHot) -> String {
    let (one_in, alice) = match hot.by {
        HotBy::Requests => (16, 4_800),
        HotBy::Waiters | HotBy::RehydrateTime => (1, 4_801),
    };
    let keys = format!(
        r#"{{"key":"alice","shard":1,"requests":{{"count":{alice},"excess_max":0}},
        "waiters":{{"count":9,"excess_max":0}},"rehydrate_us":{{"count":1250,"excess_max":0}}}},
        {{"key":"tenants/7","shard":0,"requests":{{"count":320,"excess_max":16}},
        "waiters":{{"count":2,"excess_max":2}},"rehydrate_us":{{"count":80,"excess_max":30}}}}"#
    );
    let (keys, totals) = match hot.by {
        HotBy::RehydrateTime => (String::new(), [0; 3]),
        _ => (keys, [6_000, 12, 1_400]),
    };
    let [requests, waiters, rehydrate_us] = totals;
    format!(
        r#"{{"by":"{}","window_ms":90000,"requests_counted_one_in":{one_in},"unlisted_max":1,
        "totals":{{"requests":{requests},"waiters":{waiters},"rehydrate_us":{rehydrate_us}}},
        "keys":[{keys}]}}"#,
        hot.by
    )
}
