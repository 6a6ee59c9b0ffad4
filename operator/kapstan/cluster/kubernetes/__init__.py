"""Resources and launching on a Kubernetes API: the only home of its client library."""
