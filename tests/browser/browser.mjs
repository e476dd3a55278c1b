// Opens Chromium with a fresh profile and hands a page to a script's own steps. Holds what every
// browser test asks for: no request leaves the origin, and nothing is logged as an error.

import { chromium } from 'playwright-core';
import { join } from 'node:path';

const FLAGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];

const STEP_MS_MAX = 30_000;

/** Runs `steps({ page, args, shot, requests })` and prints what it returns as the last line. */
export async function browse(steps) {
  const args = JSON.parse(process.env.BROWSER_ARGUMENTS);
  const origin = new URL(args.url).origin;
  const context = await chromium.launchPersistentContext(process.env.BROWSER_PROFILE, {
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    headless: true,
    args: FLAGS,
    locale: args.locale ?? 'zh-CN',
    timezoneId: args.timezone ?? 'Asia/Shanghai',
    viewport: { width: 1440, height: 900 },
    ignoreHTTPSErrors: true,
  });
  const faults = [];
  const requests = [];
  context.on('request', (request) => {
    const url = new URL(request.url());
    requests.push(url.href);
    const inside = ['data:', 'blob:', 'about:'].includes(url.protocol) || url.origin === origin;
    if (!inside) faults.push(`a request left the origin: ${url.href}`);
  });
  context.on('weberror', (error) => faults.push(`the page threw: ${error.error().stack}`));
  const allowed = (args.allowedErrors ?? []).map((text) => new RegExp(text));
  context.on('console', (line) => {
    const text = `${line.text()} (${line.location().url})`;
    if (line.type() === 'error' && !allowed.some((one) => one.test(text))) faults.push(`the page logged: ${text}`);
  });
  context.setDefaultTimeout(STEP_MS_MAX);
  const page = context.pages()[0] ?? (await context.newPage());
  const shot = (name) => page.screenshot({ path: join(process.env.BROWSER_ARTEFACTS, `${name}.png`), fullPage: true });
  try {
    const answer = await steps({ page, args, shot, requests });
    if (faults.length > 0) throw new Error(faults.join('\n'));
    console.log(JSON.stringify(answer ?? null));
  } catch (error) {
    await shot(`failed-${Date.now()}`).catch(() => {});
    console.error([error.stack, ...faults].join('\n'));
    process.exitCode = 1;
  } finally {
    await context.close();
  }
}
