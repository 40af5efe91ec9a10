//! `keyway-sim`: runs histories until one breaks a promise.
fn main() { std::panic::set_hook(Box::new(|_| {})); let mut n=0u64; let t=std::time::Instant::now(); let mut v=0u64; let mut inputs=0u64; let mut cov=keyway_sim::Coverage::default();
 let to: u64 = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(100);
 let from: u64 = std::env::args().nth(2).and_then(|a| a.parse().ok()).unwrap_or(0);
 for seed in from..from+to { let o=keyway_sim::run_seed(seed); n+=1; v+=o.virtual_us; inputs+=o.inputs; cov.add(&o.coverage); if let Some(b)=o.violation { println!("seed {seed} after {n}: {b:?}"); let s=keyway_sim::shrink(seed).unwrap(); println!("{} -> {} {:?}", s.steps_before, s.steps, s.violation); for l in s.trace { println!("{l}"); } break; } }
 println!("{n} seeds {:?} virtual {} s inputs {inputs} missing {}", t.elapsed(), v/1_000_000, cov.missing().len()); if to>1000 {println!("{:?}", cov.missing());} }
