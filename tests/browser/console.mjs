// A person at the console: logs in, looks at the host, its plot and an incident, in both languages,
// and flips a switch when asked to. Answers with what the person saw.
//
// Arguments: user, password, host (name), rule (of the incident), line (in its evidence),
// outcome (of its deliveries), flip (test id of a switch, optional), shot (prefix of screenshots).
import { browse } from './browser.mjs';

await browse(async ({ page, args, shot, requests }) => {
  const at = (id) => page.locator(`[data-testid="${id}"]`);
  const type = (id, text) => page.locator(`input[data-testid="${id}"], [data-testid="${id}"] input`).fill(text);
  const saw = {};

  await page.goto(args.url);
  await at('login-user').waitFor();
  await shot(`${args.shot}-login`);
  await type('login-user', args.user);
  await type('login-password', args.password);
  await at('login-submit').click();

  // The first page: the host in a line, the open incidents below.
  const row = at(`host-row-${args.host}`);
  await row.waitFor();
  const texts = {};
  for (const language of ['en', 'zh']) {
    await at(`language-${language}`).click();
    await page.waitForFunction((wanted) => document.documentElement.lang.startsWith(wanted), language);
    texts[language] = await page.innerText('body');
    await shot(`${args.shot}-hosts-${language}`);
  }
  saw.texts = texts;

  // The incident, opened: the line of the log and what became of its messages.
  const incident = at(`incident-${args.rule}`).filter({ hasText: args.line }).first();
  await incident.locator('summary').click();
  const evidence = incident.locator('[data-testid="evidence-line"]').filter({ hasText: args.line });
  await evidence.first().waitFor();
  const delivery = incident.locator(`[data-testid="delivery"][data-state="${args.outcome}"]`);
  await delivery.first().waitFor();
  saw.deliveries = await incident.locator('[data-testid="delivery"]').evaluateAll((all) => all.map((one) => one.dataset.state));
  await shot(`${args.shot}-incident`);

  // The host's page with a drawn plot.
  await row.click();
  await at('range-1h').first().click();
  await page.waitForFunction(() =>
    [...document.querySelectorAll('[data-testid="plot"][data-ready="true"]')].some((one) => Number(one.dataset.points) >= 3),
  );
  const plot = page.locator('[data-testid="plot"][data-ready="true"]').first();
  saw.points = Number(await plot.getAttribute('data-points'));
  saw.drawn = await plot.locator('svg.main-svg path.js-line').count();
  // The axis ends now, in the time zone of whoever looks.
  saw.minutes_to_last_tick = await plot.evaluate((figure) => {
    const ticks = [...figure.querySelectorAll('.xtick text')].map((tick) => /(\d\d):(\d\d)/.exec(tick.textContent)).filter(Boolean);
    const [, hours, minutes] = ticks.at(-1).map(Number);
    const now = new Date();
    return (now.getHours() * 60 + now.getMinutes() - (hours * 60 + minutes) + 1440) % 1440;
  });
  await shot(`${args.shot}-host`);

  if (args.flip) {
    await at('nav-sending').click();
    const flip = at(args.flip);
    const before = await flip.getAttribute('aria-checked');
    await flip.click();
    const after = before === 'true' ? 'false' : 'true';
    await page.locator(`[data-testid="${args.flip}"][aria-checked="${after}"]`).waitFor();
    saw.flipped = { before, after };
    await shot(`${args.shot}-flipped`);
  }
  saw.requests = requests;
  return saw;
});
