-- One read of up to 1000 records after seq 1000 of b0 … b15 in turn; run batch.lua first.
local n = 0
local hdr = { ["Content-Type"] = "application/json" }
local reqs = {}
init = function(args) for i = 0, 15 do reqs[i] = wrk.format("POST", "/v0/topics/b" .. i .. "/diff", hdr, '{"from_seq":1000,"limit":1000,"max_batch_bytes":8388608}') end end
request = function() n = n + 1; return reqs[n % 16] end
