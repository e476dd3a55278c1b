/** Addresses of the pages; every page but the login needs a session. */

import { createRouter, createWebHistory } from 'vue-router'
import { whenLoggedOut } from './api/client'
import Agents from './pages/Agents.vue'
import Hosts from './pages/Hosts.vue'
import IncidentPage from './pages/Incident.vue'
import Incidents from './pages/Incidents.vue'
import Login from './pages/Login.vue'
import Missing from './pages/Missing.vue'
import Sending from './pages/Sending.vue'
import { forgetSession, restoreSession } from './session'

export const router = createRouter({
  history: createWebHistory(),
  routes: [
    { path: '/login', name: 'login', component: Login, meta: { title: 'login.title', open: true } },
    { path: '/', name: 'hosts', component: Hosts, meta: { title: 'nav.hosts' } },
    { path: '/hosts/:host', name: 'host', component: () => import('./pages/Host.vue'), meta: { title: 'common.host', section: 'hosts' } },
    { path: '/incidents', name: 'incidents', component: Incidents, meta: { title: 'nav.incidents' } },
    { path: '/incidents/:incident', name: 'incident', component: IncidentPage, meta: { title: 'incidents.one', section: 'incidents' } },
    { path: '/sending', name: 'sending', component: Sending, meta: { title: 'nav.sending' } },
    { path: '/models', name: 'models', component: () => import('./pages/Models.vue'), meta: { title: 'nav.models' } },
    { path: '/agents', name: 'agents', component: Agents, meta: { title: 'nav.agents' } },
    { path: '/:rest(.*)*', name: 'missing', component: Missing, meta: { title: 'error.not_found' } },
  ],
  scrollBehavior: (_to, _from, saved) => saved ?? { top: 0 },
})

router.beforeEach(async (to) => {
  if (to.meta.open) return true
  // With the server away the page opens and says so; a session that has ended is noticed by the next answer.
  const known = await restoreSession().catch(() => true)
  return known || { name: 'login', query: to.fullPath === '/' ? {} : { next: to.fullPath } }
})

whenLoggedOut(() => {
  forgetSession()
  const here = router.currentRoute.value
  if (!here.meta.open && here.matched.length > 0) void router.replace({ name: 'login', query: { next: here.fullPath } })
})
