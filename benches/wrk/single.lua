-- One append of one record, about 190 bytes of data, to t0 … t15 in turn; answers without the seqs.
local n = 0
local body = '{"records":[{"data":{"kind":"order","id":%d,"customer":"c-%d","text":"' .. string.rep("x", 130) .. '"}}]}'
local hdr = { ["Content-Type"] = "application/json" }
init = function(args) math.randomseed(os.time()) end
request = function()
  n = n + 1
  return wrk.format("POST", "/v0/topics/t" .. (n % 16) .. "?return_seqs=false", hdr, string.format(body, 1000000 + n % 1000000, n % 1000))
end
