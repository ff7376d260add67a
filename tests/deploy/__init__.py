"""Tests of `deploy`: compose file, images, manifests for Kubernetes, dashboard and alerts."""
