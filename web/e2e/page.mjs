/**
 * The page in a real browser against a running node:
 *
 *   npm run e2e -- 'http://localhost:30069/#signin=…'
 *
 * The link is the one-time link that the node prints. The browser is Debian's `chromium` or what `CHROMIUM` names.
 * Checked: signing in, the live state, that nothing violates the page's policy, that no other host is asked for
 * anything, that the code is gone from the address, and that the session stays in this tab.
 */
import assert from 'node:assert/strict'
import { chromium } from 'playwright-core'

const link = process.argv[2]
assert.ok(link, 'give the sign-in link as argument')
const origin = new URL(link).origin

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  // In a container there is often no user namespace for the browser's own sandbox.
  args: process.getuid?.() === 0 ? ['--no-sandbox'] : [],
})
try {
  const page = await browser.newPage()
  const complaints = []
  const asked = new Set()
  page.on('console', (m) => {
    if (m.type() === 'error' || m.type() === 'warning') complaints.push(m.text())
  })
  page.on('pageerror', (e) => complaints.push(String(e)))
  page.on('request', (r) => asked.add(new URL(r.url()).origin))
  await page.addInitScript(() => {
    window.violations = []
    document.addEventListener('securitypolicyviolation', (e) => window.violations.push(e.violatedDirective))
  })

  await page.goto(link)
  await page.getByText('Live', { exact: true }).waitFor({ timeout: 10_000 })
  await page.getByRole('heading', { name: 'This node' }).waitFor()
  await page.getByText(/^key_/).first().waitFor()
  assert.equal(new URL(page.url()).hash, '', 'the code is gone from the address')

  const run = page.getByRole('table', { name: 'Runs' }).getByRole('link').first()
  if ((await run.count()) > 0) {
    await run.click()
    await page.getByRole('heading', { name: 'Tasks' }).waitFor()
    const save = page.getByRole('button', { name: /^Download/ }).first()
    if ((await save.count()) > 0) {
      const [download] = await Promise.all([page.waitForEvent('download'), save.click()])
      assert.equal(await download.failure(), null)
    }
    await page.goBack()
  }

  await page.reload()
  await page.getByText('Live', { exact: true }).waitFor({ timeout: 10_000 })
  const other = await browser.newPage()
  await other.goto(origin)
  await other.getByText('Open the sign-in link').waitFor()

  assert.deepEqual(await page.evaluate(() => window.violations), [])
  assert.deepEqual(complaints, [])
  assert.deepEqual([...asked].filter((o) => o !== origin && !o.startsWith('blob')), [])
  await page.getByRole('button', { name: 'Sign out' }).click()
  await page.getByText('You have signed out.').waitFor()
  console.log('the page works')
} finally {
  await browser.close()
}
