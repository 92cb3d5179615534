import { chromium } from 'playwright-core';
const b = await chromium.launch({executablePath:'/usr/bin/chromium', args:['--no-sandbox','--disable-gpu','--disable-quic','--no-first-run','--disable-background-networking','--disable-component-update','--disable-sync','--autoplay-policy=no-user-gesture-required']});
for (const p of ['hls','flv']) {
const t = await b.newPage({viewport:{width:1000,height:1100}});
t.on('console', m=>console.error(m.text())); t.on('pageerror', e=>console.error(e.stack));
await t.goto('http://127.0.0.1:28080/#'+p+'/live/demo');
await t.waitForFunction(()=>document.getElementById('video').currentTime>3 && document.getElementById('video').readyState>=2, null, {timeout:20000}).catch(e=>console.error(p, e.message));
console.log(p, await t.evaluate(()=>[document.getElementById('video').currentTime, document.getElementById('state').textContent, document.getElementById('video').videoWidth]));
await t.screenshot({path:'/tmp/page-'+p+'.png'});
await t.close();
}
const t = await b.newPage(); await t.goto('http://127.0.0.1:28080/#flv/live/none'); await t.waitForTimeout(2000); console.log(await t.evaluate(()=>document.getElementById('state').textContent));
await t.goto('about:blank'); await t.goto('http://127.0.0.1:28080/#hls/live/none'); await t.waitForTimeout(3000); console.log(await t.evaluate(()=>document.getElementById('state').textContent));
await b.close();
