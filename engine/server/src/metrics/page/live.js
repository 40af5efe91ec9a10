// The live page: fetches /live.json once a second, keeps five minutes, and shows them. It is read-only.

import { Panel, fill, setText, short } from "./charts.js";

const PERIOD_MS = 1000;
const SPAN_S = 300;
const RATE_S = 60; // rates are averages over this many seconds
const FOLLOWED_MAX = 64; // keyspaces whose past is kept, in addition to the chosen one
const LIMITS = { waiters: 128, timeouts: 0.2, p95: 2 };
const HEAT_COLUMNS = 60;
const STATES = {
  idle: "– idle: no lease, not in use",
  live: "✓ live",
  renewing: "✓ renewing: a lease is held",
  acquiring: "… acquiring: no lease, the KMS was called",
  denied: "✕ denied by the KMS",
  locked: "■ locked by an operator",
};
const BAD_STATES = ["acquiring", "denied", "locked"];

const of = (id) => document.getElementById(id);
const count = (value) => value.toLocaleString("en");
const percent = (part) => `${(part * 100).toFixed(part < 0.1 ? 1 : 0)} %`;

let past = []; // {t, keyspaces: Map, shards: Map}, oldest first
let latest = null;
let chosen = null;
let paused = false;
let answers = 0;

const panels = {
  waiters: new Panel(of("panels"), "panel-waiters", "Waiters"),
  timeouts: new Panel(of("panels"), "panel-timeouts", "Wait timeouts"),
  coverage: new Panel(of("panels"), "panel-coverage", "Prefetch coverage"),
  p95: new Panel(of("panels"), "panel-p95", "Rehydrate p95"),
  prefetch: new Panel(of("panels"), "panel-prefetch", "Prefetcher"),
  bars: new Panel(of("panels"), "panel-bars", "Waiters now, by keyspace"),
  busy: new Panel(of("cores"), "panel-busy", "Time busy, by shard"),
  queue: new Panel(of("cores"), "panel-queue", "Queue depth, by shard"),
};

function sample(figures) {
  const followed = figures.keyspaces.filter((k, at) => at < FOLLOWED_MAX || k.name === chosen);
  const asked = (rows, outcome) =>
    rows.reduce((sum, row) => sum + (!outcome || row.outcome === outcome ? row.count : 0), 0);
  return {
    t: figures.unix_ms / 1000,
    keyspaces: new Map(followed.map((k) => [k.name, {
      waiters: k.singleflight_waiters,
      timeouts: k.singleflight_wait_timeout_total,
      triggers: k.prefetch_trigger_total,
      scans: k.prefetch_scan_total,
      skips: k.prefetch_skipped_total,
      fails: k.rehydrate_fail_total,
      buckets: k.rehydrate_latency_ms.buckets,
      requests: asked(k.requests),
      unlocks: asked(k.requests, "needs_unlock"),
    }])),
    shards: new Map(figures.shards.map((s) => [s.shard, {
      // When its values were taken: they are up to a second older than the answer.
      t: (figures.unix_ms - (s.silent_ms || 0)) / 1000,
      turn_ms: s.turn_ms.sum,
      queue: s.parked_requests + s.load_queue_depth + s.slow_queue_depth,
    }])),
  };
}

// Returns the keyspace at two times, about `seconds` apart, the later being `past[at]`, or null if there is only one.
function pair(name, at, seconds) {
  const later = past[at];
  let first = at;
  while (first > 0 && later.t - past[first - 1].t <= seconds + 0.5 && past[first - 1].keyspaces.has(name)) first -= 1;
  const [a, b] = [past[first].keyspaces.get(name), later.keyspaces.get(name)];
  return first < at && a && b ? { a, b, seconds: later.t - past[first].t } : null;
}

// As histogram_quantile: linear within a bucket.
function quantile(a, b, part) {
  const counts = b.buckets.map((value, at) => value - (a.buckets[at] || 0));
  const rank = part * counts.reduce((sum, value) => sum + value, 0);
  const bounds = latest.latency_bounds_ms;
  let below = 0;
  for (let at = 0; at < bounds.length; at += 1) {
    if (rank > 0 && below + counts[at] >= rank) {
      const low = at ? bounds[at - 1] : 0;
      return low + ((bounds[at] - low) * (rank - below)) / counts[at];
    }
    below += counts[at];
  }
  return rank > 0 ? bounds[bounds.length - 1] : null;
}

function figuresAt(name, at) {
  const now = past[at].keyspaces.get(name);
  const over = pair(name, at, RATE_S);
  const rate = (of) => (over ? (over.b[of] - over.a[of]) / over.seconds : null);
  const scans = rate("scans");
  return {
    waiters: now ? now.waiters : null,
    timeouts: rate("timeouts"),
    triggers: rate("triggers"),
    skips: rate("skips"),
    coverage: scans > 0 ? rate("triggers") / scans : null,
    p95: over ? quantile(over.a, over.b, 0.95) : null,
  };
}

function drawPanels() {
  const series = past.map((one, at) => ({ t: one.t, ...figuresAt(chosen, at) }));
  const points = (...names) => series.map((one) => ({ t: one.t, values: names.map((name) => one[name]) }));
  const now = series[series.length - 1];
  const against = (value, limit, unit) => {
    if (value === null) return "no data yet";
    return `${short(value)}${unit}, ${value > limit ? "above" : "within"} ${limit}${unit}`;
  };
  const limited = (name, unit) => {
    const limit = LIMITS[name];
    panels[name].tell(against(now[name], limit, unit), now[name] > limit);
    panels[name].lines(points(name), [""], { value: limit, label: `${limit}${unit}` }, unit, SPAN_S);
  };
  limited("waiters", "");
  limited("timeouts", "/s");
  limited("p95", " ms");
  panels.coverage.tell(now.coverage === null ? "prefetcher off, or no data yet" : `${short(now.coverage)} per scan`, false);
  panels.coverage.lines(points("coverage"), [""], null, " per scan", SPAN_S);
  const skipping = now.skips > 0;
  panels.prefetch.tell(now.skips === null ? "no data yet"
    : `${short(now.triggers)}/s started, ${short(now.skips)}/s skipped`, skipping);
  panels.prefetch.lines(points("triggers", "skips"), ["started", "skipped"], null, "/s", SPAN_S);

  const most = [...latest.keyspaces].sort((a, b) => b.singleflight_waiters - a.singleflight_waiters).slice(0, 10);
  panels.bars.tell(`${count(most.reduce((sum, k) => sum + k.singleflight_waiters, 0))} in total`, false);
  panels.bars.bars(most.map((k) => ({ name: k.name, value: k.singleflight_waiters,
    bad: k.singleflight_waiters > LIMITS.waiters })));
}

// Busy share and queue depth of a shard in each of the heat map's columns.
function columnsOf(shard) {
  const width = SPAN_S / HEAT_COLUMNS;
  // Columns keep their place while time passes.
  const end = Math.ceil(past[past.length - 1].t / width) * width;
  return Array.from({ length: HEAT_COLUMNS }, (_, column) => {
    const until = end - (HEAT_COLUMNS - 1 - column) * width;
    const inside = past.filter((one) => one.t > until - width && one.t <= until && one.shards.has(shard));
    if (!inside.length) return null;
    const before = past[past.indexOf(inside[0]) - 1];
    const [a, b] = [(before || inside[0]).shards.get(shard), inside[inside.length - 1].shards.get(shard)];
    const queue = Math.max(...inside.map((one) => one.shards.get(shard).queue));
    const busy = a && b.t > a.t + 0.1 ? Math.max(0, Math.min(1, (b.turn_ms - a.turn_ms) / 1e3 / (b.t - a.t))) : null;
    return { busy, queue };
  });
}

function drawCores() {
  const all = latest.shards.map((s) => ({ shard: s.shard, columns: columnsOf(s.shard) }));
  const deepest = Math.max(8, ...all.flatMap((one) => one.columns.map((column) => (column ? column.queue : 0))));
  const rows = (cell) => all.map((one) => ({
    name: `${one.shard}`,
    cells: one.columns.map((column) => column && cell(column, one.shard)),
  }));
  panels.busy.heat(rows(({ busy }, shard) => busy !== null && { part: busy, text: `shard ${shard}: ${percent(busy)}` }),
    HEAT_COLUMNS, SPAN_S);
  panels.queue.heat(rows(({ queue }, shard) => ({ part: queue / deepest, text: `shard ${shard}: ${queue}` })),
    HEAT_COLUMNS, SPAN_S);
  const busyNow = all.map((one) => one.columns.filter((column) => column && column.busy !== null).pop());
  const busiest = Math.max(0, ...busyNow.map((column) => (column ? column.busy : 0)));
  const queueNow = Math.max(0, ...all.map((one) => one.columns[HEAT_COLUMNS - 1]?.queue ?? 0));
  panels.busy.tell(`the busiest is at ${percent(busiest)}`, busiest > 0.8);
  panels.queue.tell(`${count(queueNow)} at most now`, false);
  setText(panels.busy.said, "pale: idle; full colour: busy all the time; !: above 80 %");
  setText(panels.queue.said, `requests parked, loads and slow operations waiting; full colour: ${count(deepest)}`);
  const figure = (s, field, name) => ({ text: count(s[field]), series: `${name}{shard="${s.shard}"}` });
  fill(of("shards"), "", ["Shard", "#Busy", "#Parked", "#Loads waiting", "#Slow lane", "#Connections", "#Forwards in",
    "#Forwards out", "#Turn p99, ms", "#Locked memory", "Last update"], latest.shards.map((s, at) => [
    `${s.shard}${s.serving ? "" : ", not serving"}`,
    busyNow[at] ? percent(busyNow[at].busy) : "–",
    figure(s, "parked_requests", "keyway_shard_parked_requests"),
    figure(s, "load_queue_depth", "keyway_shard_load_queue_depth"),
    figure(s, "slow_queue_depth", "keyway_shard_slow_queue_depth"),
    figure(s, "connections", "keyway_shard_connections"),
    figure(s, "forwards_in_total", "keyway_shard_forwards_in_total"),
    figure(s, "forwards_out_total", "keyway_shard_forwards_out_total"),
    short(s.turn_ms.p99),
    percent(s.arena_capacity_bytes ? s.arena_used_bytes / s.arena_capacity_bytes : 0),
    s.silent_ms > 5000 ? { text: `silent for ${count(Math.round(s.silent_ms / 1000))} s`, bad: true } : "just now",
  ]));
}

function drawTables() {
  const figure = (k, field, name) => ({ text: count(k[field]), series: `${name || field}{keyspace="${k.name}"}` });
  fill(of("figures"), "", ["Keyspace", "#Waiters", "#Wait timeouts", "#Rehydrated", "#Failed", "#Scans", "#Started",
    "#Skipped", "#Hits", "#Misses"], latest.keyspaces.map((k) => [
    k.name,
    { ...figure(k, "singleflight_waiters"), bad: k.singleflight_waiters > LIMITS.waiters },
    figure(k, "singleflight_wait_timeout_total"),
    figure(k, "rehydrate_total"),
    figure(k, "rehydrate_fail_total"),
    figure(k, "prefetch_scan_total"),
    figure(k, "prefetch_trigger_total"),
    figure(k, "prefetch_skipped_total"),
    figure(k, "hits", "keyway_hits_total"),
    figure(k, "misses", "keyway_misses_total"),
  ]));
  fill(of("states"), "", ["Keyspace", "State", "#Lease left", "KMS", "#DEK generation", "#Keys held", "#Refreshes",
    "#Oldest key served"], latest.keyspaces.map((k) => [
    k.name,
    { text: STATES[k.state] || k.state, bad: BAD_STATES.includes(k.state) },
    k.dek_lease_left_s > 0 ? `${count(Math.round(k.dek_lease_left_s))} s` : "none",
    k.in_force ? k.in_force.kms : "–",
    k.in_force ? count(k.in_force.generation) : "–",
    figure(k, "resident_keys", "keyway_resident_keys"),
    figure(k, "flights", "keyway_flights"),
    `${count(k.oldest_served_age_ms / 1000)} s`,
  ]));
  fill(of("kms"), "", ["KMS", "Provider", "State", "Breaker", "#Calls in flight", "#Unwraps waiting", "#Calls available",
    "#Retries available", "#Calls per hour, forecast"], latest.kms.map((one) => [
    one.name, one.provider,
    { text: one.state, bad: one.state !== "unlocked" },
    { text: one.breaker, bad: one.breaker !== "closed" },
    count(one.calls_in_flight), count(one.unwraps_waiting), count(one.rate_tokens), count(one.retry_tokens),
    short(one.calls_per_hour_forecast),
  ]));
  const inForce = latest.keyspaces.find((k) => k.name === chosen)?.in_force;
  fill(of("settings"), "", ["Setting", "#Value", "Reverts"], (inForce ? inForce.settings : []).map((setting) => [
    setting.name, setting.value,
    setting.until ? { text: `to ${setting.until.then} at ${new Date(setting.until.unix_ms).toLocaleTimeString("en-GB")}`,
      bad: true } : "–",
  ]));
}

function drawHot() {
  const keyspace = latest.keyspaces.find((k) => k.name === chosen);
  let note = "No data yet.";
  for (const { by, age_ms, of: hot } of keyspace ? keyspace.hot : []) {
    const figure = ({ count: most, excess_max }) => (excess_max ? `${count(most - excess_max)} to ${count(most)}` : count(most));
    fill(of(`hot-${by}`), `By ${by}`, ["Key", "#Shard", "#Requests", "#Waiters", "#Loading, ms"], hot.keys.map((key, at) => [
      key.key ?? `#${at + 1}`, `${key.shard}`, figure(key.requests), figure(key.waiters),
      short(key.rehydrate_us.count / 1000),
    ]));
    const named = hot.keys.some((key) => "key" in key);
    note = `Of the last ${Math.round(hot.window_ms / 1000)} s${age_ms > 5000 ? `, ${Math.round(age_ms / 1000)} s ago` : ""}. `
      + (named ? "" : `This port does not name keys; use “keyway hot ${chosen}”.`);
  }
  setText(of("hot-note"), note);
}

function notes() {
  const found = [];
  const intended = []; // set by an operator, and worth knowing
  const last = past.length - 1;
  for (const k of latest.keyspaces) {
    if (BAD_STATES.includes(k.state)) found.push(`${k.name}: ${STATES[k.state]}`);
    for (const setting of k.in_force ? k.in_force.settings : []) {
      if (setting.until) intended.push(`${k.name}: ${setting.name} is ${setting.value} temporarily`);
    }
    if (!past[last].keyspaces.has(k.name)) continue;
    const now = figuresAt(k.name, last);
    if (now.waiters > LIMITS.waiters) found.push(`${k.name}: more than ${LIMITS.waiters} requests wait for a refresh`);
    if (now.timeouts > LIMITS.timeouts) found.push(`${k.name}: waits time out, more than ${LIMITS.timeouts}/s`);
    if (now.p95 > LIMITS.p95) found.push(`${k.name}: rehydrate p95 is above ${LIMITS.p95} ms`);
    if (now.skips > 0) found.push(`${k.name}: the prefetcher skips keys, max_in_flight is reached`);
    const over = pair(k.name, last, SPAN_S);
    if (over && over.b.fails - over.a.fails > 10) found.push(`${k.name}: more than 10 rehydrations failed in 5 minutes`);
    const minute = pair(k.name, last, RATE_S);
    if (minute && minute.b.unlocks - minute.a.unlocks > 0.005 * (minute.b.requests - minute.a.requests)) {
      found.push(`${k.name}: more than 0.5 % of the requests were answered NEEDS_UNLOCK`);
    }
  }
  for (const one of latest.kms) {
    if (one.state !== "unlocked") found.push(`KMS ${one.name} is ${one.state}`);
    if (one.breaker !== "closed") found.push(`KMS ${one.name}: its breaker is ${one.breaker}`);
  }
  for (const s of latest.shards) {
    if (s.silent_ms > 5000) found.push(`shard ${s.shard} is silent`);
    if (s.store_poisoned) found.push(`shard ${s.shard}: its blob log is closed for writing, restart`);
    if (s.panics_total) found.push(`shard ${s.shard} caught a panic: report it`);
  }
  const text = [...(found.length ? found : ["No problems: all values are within their thresholds."]), ...intended];
  const list = of("notes");
  // Screen readers announce changes only.
  if (text.join("\n") === [...list.children].map((item) => item.textContent).join("\n")) return;
  list.replaceChildren(...text.map((line, at) => {
    const item = document.createElement("li");
    item.textContent = line;
    item.classList.toggle("bad", at < found.length);
    return item;
  }));
}

function offerKeyspaces() {
  const select = of("keyspace");
  const names = latest.keyspaces.map((k) => k.name);
  if (names.join("\n") !== [...select.options].map((option) => option.value).join("\n")) {
    select.replaceChildren(...names.map((name) => new Option(name, name)));
  }
  const wanted = decodeURIComponent(location.hash.slice(1));
  if (chosen === null && names.includes(wanted)) chosen = wanted;
  if (!names.includes(chosen)) chosen = names[0] ?? null;
  if (chosen !== null) select.value = chosen;
  document.querySelectorAll(".chosen").forEach((place) => setText(place, chosen ?? "no keyspace"));
}

// If the user prefers reduced motion, curves move every fifth second only. Tables always show the latest.
const calm = matchMedia("(prefers-reduced-motion: reduce)");

function draw(all) {
  setText(of("version"), `${latest.version}, process ${latest.pid}`);
  offerKeyspaces();
  drawTables();
  drawHot();
  notes();
  if (all || !calm.matches || answers % 5 === 1) {
    drawPanels();
    drawCores();
  }
  document.documentElement.dataset.answers = `${answers}`;
}

function take(figures) {
  // Another process has new counters.
  if (latest && latest.pid !== figures.pid) past = [];
  latest = figures;
  answers += 1;
  past.push(sample(figures));
  while (past[past.length - 1].t - past[0].t > SPAN_S || past.length > 2 * SPAN_S) past.shift();
  draw(false);
}

async function look() {
  const connection = of("connection");
  try {
    const answer = await fetch("live.json", { cache: "no-store", signal: AbortSignal.timeout(10 * PERIOD_MS) });
    if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
    const figures = await answer.json();
    if (!paused) take(figures);
    setText(connection, paused ? "paused" : "live, once a second");
    connection.classList.remove("lost");
  } catch (error) {
    const since = latest ? `; data of ${new Date(latest.unix_ms).toLocaleTimeString("en-GB")}` : "";
    setText(connection, `no answer from the server${since}`);
    connection.classList.add("lost");
    console.info(error);
  }
  setTimeout(look, PERIOD_MS);
}

of("keyspace").addEventListener("change", (event) => {
  chosen = event.target.value;
  history.replaceState(null, "", `#${encodeURIComponent(chosen)}`);
  draw(true);
});
addEventListener("hashchange", () => {
  chosen = null;
  if (latest) draw(true);
});
of("pause").addEventListener("click", () => {
  paused = !paused;
  of("pause").setAttribute("aria-pressed", `${paused}`);
  setText(of("pause"), paused ? "Resume" : "Pause");
});
look();
