/** The API's shapes under the names that the console uses; `schema.d.ts` is made of the server's OpenAPI document. */

import type { components } from './schema'

type Schema = components['schemas']

export type BandPoint = Schema['BandPoint']
export type Because = Schema['Because']
export type Expert = Schema['Expert']
export type Forecast = Schema['Forecast']
export type ForecastState = Schema['State']
export type Reason = Schema['Reason']

export type Attribute = Schema['Attribute']
export type HostDetail = Schema['HostDetail']
export type HostSummary = Schema['HostSummary']
export type Outlook = Schema['Outlook']
export type Overview = Schema['Overview']
export type Plot = Schema['Plot']
export type SeriesView = Schema['SeriesView']
export type Workload = Schema['Workload']
export type Kind = Schema['Kind']
export type Unit = Schema['Unit']

export type Delivery = Schema['Delivery']
export type Evidence = Schema['Evidence']
export type Incident = Schema['Incident']
export type IncidentPage = Schema['IncidentPage']

export type Condition = Schema['Condition']
export type KeywordRule = Schema['KeywordRule']
export type Keywords = Schema['Keywords']
export type Rule = Schema['Rule']
export type NewRule = Schema['NewRule']
export type RuleChange = Schema['RuleChange']
export type Severity = Schema['Severity']

export type Adoption = Schema['Adoption']
export type Model = Schema['Model']
export type ModelDetail = Schema['ModelDetail']
export type NewTraining = Schema['NewTraining']
export type Report = Schema['Report']
export type Selection = Schema['Selection']
export type Training = Schema['TrainingView']
export type TrainingRefusal = Schema['Refusal2']

export type Channel = Schema['Channel']
export type ChannelChange = Schema['ChannelChange']
export type ChannelTest = Schema['ChannelTest']
export type Language = Schema['Language']
export type NewChannel = Schema['NewChannel']

export type Health = Schema['Health']
export type Login = Schema['Login']
export type Me = Schema['Me']
export type NewToken = Schema['NewToken']
export type Refusal = Schema['Refusal']
export type TokenView = Schema['TokenView']
