// Verify checks the signature of a callback of Weir. As a program:
//
//	WEIR_CALLBACK_SECRET=… node verify.js TIMESTAMP ID SIGNATURE < body
const crypto = require('crypto')

// timestamp, id and signature are the headers weir-timestamp, weir-event-id and
// weir-signature; body is a Buffer of the body as it came: with Express use
// express.raw({ type: '*/*' }).
function verify(secret, timestamp, id, signature, body) {
  if (!(Math.abs(Date.now() / 1000 - Number(timestamp)) <= 300)) return false // too old to be believed
  const mac = crypto.createHmac('sha256', secret)
  mac.update(`${timestamp}.${id}.`)
  mac.update(body)
  const want = Buffer.from('v1=' + mac.digest('hex'))
  const got = Buffer.from(String(signature))
  return want.length === got.length && crypto.timingSafeEqual(want, got)
}

module.exports = { verify }

if (require.main === module) {
  const [timestamp, id, signature] = process.argv.slice(2)
  const ok = verify(process.env.WEIR_CALLBACK_SECRET, timestamp, id, signature, require('fs').readFileSync(0))
  console.log(ok ? 'ok' : 'wrong')
  process.exit(ok ? 0 : 1)
}
