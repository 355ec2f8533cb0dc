//! What the gateway counts about its own work.

use std::{sync::atomic::AtomicI64, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

/// Upper bounds of the latency histogram in seconds: from a query in memory to a request that waits for a slow disk.
const LATENCY_BUCKETS_S: [f64; 12] = [0.0001, 0.0003, 0.001, 0.002, 0.005, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0];

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct RequestLabels {
    route: String,
    method: &'static str,
    status: u16,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct RouteLabels {
    route: String,
}

/// Counts of requests and connections.
#[derive(Clone)]
pub(crate) struct RequestMetrics {
    requests: Family<RequestLabels, Counter>,
    seconds: Family<RouteLabels, Histogram, fn() -> Histogram>,
    /// Connections that are open now.
    pub(crate) connections: Gauge<i64, AtomicI64>,
}

impl RequestMetrics {
    /// New counts, registered.
    pub(crate) fn registered(registry: &mut Registry) -> RequestMetrics {
        let metrics = RequestMetrics {
            requests: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(LATENCY_BUCKETS_S)),
            connections: Gauge::default(),
        };
        registry.register("theseus_http_requests", "HTTP requests answered", metrics.requests.clone());
        registry.register_with_unit(
            "theseus_http_request_duration",
            "Time from a request's head to its answer's head",
            Unit::Seconds,
            metrics.seconds.clone(),
        );
        registry.register("theseus_http_connections", "HTTP connections open now", metrics.connections.clone());
        metrics
    }

    /// Counts one request that was answered. `route` is the pattern, never the path, so that there are few of them.
    pub(crate) fn answered(&self, route: &str, method: &axum::http::Method, status: u16, time: Duration) {
        let method = match method.as_str() {
            "GET" => "GET",
            "POST" => "POST",
            "DELETE" => "DELETE",
            "HEAD" => "HEAD",
            _ => "other",
        };
        self.requests.get_or_create(&RequestLabels { route: route.to_owned(), method, status }).inc();
        self.seconds.get_or_create(&RouteLabels { route: route.to_owned() }).observe(time.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_route_method_and_status() {
        let mut registry = Registry::default();
        let metrics = RequestMetrics::registered(&mut registry);
        metrics.answered("/v1/status", &"GET".parse().unwrap(), 200, Duration::from_millis(4));
        metrics.answered("/v1/status", &"BREW".parse().unwrap(), 405, Duration::from_millis(4));
        metrics.connections.inc();
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "theseus_http_requests_total{route=\"/v1/status\",method=\"GET\",status=\"200\"} 1",
            "theseus_http_requests_total{route=\"/v1/status\",method=\"other\",status=\"405\"} 1",
            "theseus_http_request_duration_seconds_bucket{le=\"0.005\",route=\"/v1/status\"} 2",
            "theseus_http_connections 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
