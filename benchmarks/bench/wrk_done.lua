-- Gives the end of a run as one line of JSON, and sends a request of one's own if a file with its bytes is named behind
-- `--`. That is read once, before the run: there is no request() or response() here, which would run Lua for each
-- request and slow the load down. Latencies are in microseconds, as wrk keeps them.
init = function(args)
  if args[1] then
    local file = assert(io.open(args[1], "rb"))
    local bytes = file:read("*a")
    file:close()
    wrk.format = function() return bytes end
  end
end

done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '\nRESULT {"requests": %d, "duration_us": %d, "bytes": %d, "mean_us": %d, "p50_us": %d, "p99_us": %d, "p999_us": %d, "max_us": %d, '
      .. '"connect": %d, "read": %d, "write": %d, "timeout": %d, "status": %d}\n',
    summary.requests, summary.duration, summary.bytes, latency.mean, latency:percentile(50),
    latency:percentile(99), latency:percentile(99.9), latency.max, e.connect, e.read, e.write, e.timeout, e.status))
end
