-- One record of about 200 bytes a request, over 16 topics; requests are made once, so that wrk's own
-- script costs little of its core.
local reqs, n = {}, 0
init = function()
  local pad = string.rep("x", 130)
  for i = 0, 1023 do
    local body = string.format('{"records":[{"data":{"kind":"order","id":%d,"customer":"c-%d","text":"%s"}}]}', 1000000 + i, i, pad)
    reqs[i] = wrk.format("POST", "/v0/topics/t" .. (i % 16) .. "?return_seqs=false", { ["Content-Type"] = "application/json" }, body)
  end
end
request = function() n = n + 1; return reqs[n % 1024] end
