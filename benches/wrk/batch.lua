-- One append of 100 records of about 100 bytes each, to b0 … b15 in turn; answers without the seqs.
local n = 0
local recs = {}
for i = 1, 100 do recs[i] = string.format('{"data":{"kind":"order","id":%d,"customer":"c-%d","text":"%s"}}', 100000 + i, i, string.rep("y", 46)) end
local body = '{"records":[' .. table.concat(recs, ",") .. ']}'
local hdr = { ["Content-Type"] = "application/json" }
local reqs = {}
init = function(args) for i = 0, 15 do reqs[i] = wrk.format("POST", "/v0/topics/b" .. i .. "?return_seqs=false", hdr, body) end end
request = function() n = n + 1; return reqs[n % 16] end
