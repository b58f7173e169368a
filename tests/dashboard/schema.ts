// What Grafana's own types want of a dashboard. The test appends: `export const dashboard: Json<Checked> = …the JSON…;`
import type { AnnotationQuery, Dashboard } from '@grafana/schema';

// In JSON an enum is one of its words.
type Json<T> = T extends string
  ? `${T}`
  : T extends number | boolean | null | undefined
    ? T
    : T extends (infer Item)[]
      ? Json<Item>[]
      : T extends object
        ? { [Key in keyof T]: Json<T[Key]> }
        : T;

// Annotations also hold what their data source understands; the types know only what all of them do.
type OfPrometheus = { expr?: string; useValueForTime?: 'on' | 'off'; titleFormat?: string; textFormat?: string };

type Checked = Omit<Dashboard, 'annotations'> & { annotations: { list: (AnnotationQuery & OfPrometheus)[] } };

