-- Flat views over the tables that meltanolabs-target-postgres makes without flattening, with all columns selected:
-- one row for each value of what the tables nest. Put them beside the tables:
--
--     PGOPTIONS='-c search_path=constant_contact' psql analytics -f docs/sql/postgres_views.sql
--
-- Times are in UTC. Deleted contacts are in it too: `contacts_flat.deleted_at` says when they were deleted.

-- The contacts without what is nested, and with what belongs to the address and to the phone for text messages.
CREATE OR REPLACE VIEW contacts_flat AS
SELECT contact_id, email, status, first_name, last_name, job_title, company_name, birthday_month, birthday_day, anniversary,
       address.permission_to_send, address.confirm_status, address.opt_in_date, address.opt_in_source,
       address.opt_out_date, address.opt_out_source, address.opt_out_reason,
       sms.dial_code AS sms_dial_code, sms.sms_address, sms.country_code AS sms_country_code,
       contacts.create_source, contacts.update_source, created_at, updated_at, deleted_at
FROM contacts
-- An object that the service does not send arrives as JSON null.
LEFT JOIN jsonb_to_record(nullif(email_address, 'null')) AS address (
       permission_to_send text, confirm_status text, opt_in_date timestamp, opt_in_source text,
       opt_out_date timestamp, opt_out_source text, opt_out_reason text) ON true
LEFT JOIN jsonb_to_record(nullif(sms_channel, 'null')) AS sms (
       dial_code text, sms_address text, country_code text) ON true;

-- The values of custom fields: of a field with choices a row for each choice.
CREATE OR REPLACE VIEW contact_custom_fields AS
SELECT contact_id, field.custom_field_id, field.name, field.label, field.type,
       CASE WHEN choice.id IS NULL THEN field.value ELSE coalesce(choice.label, choice.id) END AS value
FROM contacts
CROSS JOIN unnest(custom_fields) AS one
CROSS JOIN jsonb_to_record(one) AS field (
       custom_field_id text, name text, label text, type text, value text, choice_ids text[], choice_labels text[])
LEFT JOIN unnest(field.choice_ids, field.choice_labels) AS choice (id, label) ON true;

CREATE OR REPLACE VIEW contact_phone_numbers AS
SELECT contact_id, phone.*
FROM contacts
CROSS JOIN unnest(phone_numbers) AS one
CROSS JOIN jsonb_to_record(one) AS phone (
       phone_number_id text, phone_number text, kind text, created_at timestamp, updated_at timestamp,
       update_source text, create_source text);

CREATE OR REPLACE VIEW contact_street_addresses AS
SELECT contact_id, address.*
FROM contacts
CROSS JOIN unnest(street_addresses) AS one
CROSS JOIN jsonb_to_record(one) AS address (
       street_address_id text, kind text, street text, city text, state text, postal_code text, country text,
       created_at timestamp, updated_at timestamp);

CREATE OR REPLACE VIEW contact_notes AS
SELECT contact_id, note.*
FROM contacts
CROSS JOIN unnest(notes) AS one
CROSS JOIN jsonb_to_record(one) AS note (note_id text, created_at timestamp, content text);

-- The permissions for text messages.
CREATE OR REPLACE VIEW contact_sms_consents AS
SELECT contact_id, consent.*
FROM contacts
CROSS JOIN jsonb_to_recordset(nullif(sms_channel->'sms_channel_consents', 'null')) AS consent (
       consent_type text, sms_consent_permission text, opt_in_date timestamp, opt_out_date timestamp,
       advertised_frequency text, advertised_interval text, created_at timestamp, updated_at timestamp);

-- Who is on which list.
CREATE OR REPLACE VIEW contact_list_memberships AS
SELECT contact_id, list_id, list_name
FROM contacts, unnest(list_memberships, list_names) AS membership (list_id, list_name);

CREATE OR REPLACE VIEW contact_tags AS
SELECT contact_id, tag_id, tag_name
FROM contacts, unnest(taggings, tag_names) AS tagging (tag_id, tag_name);

-- The campaigns without what is nested, with their counts and, in percent, what became of what was sent.
CREATE OR REPLACE VIEW email_campaigns_flat AS
SELECT campaign_id, name, type, current_status, subject, preheader, from_name, from_email, reply_to_email,
       created_at, updated_at, last_sent_date,
       unique_sends, unique_opens, unique_clicks, unique_bounces, unique_optouts, unique_forwards, unique_abuse,
       unique_not_opened,
       round(100.0 * unique_opens / nullif(unique_sends - unique_bounces, 0), 1) AS open_rate,
       round(100.0 * unique_clicks / nullif(unique_sends - unique_bounces, 0), 1) AS click_rate,
       round(100.0 * unique_bounces / nullif(unique_sends, 0), 1) AS bounce_rate
FROM email_campaigns;

-- The sendings of a campaign, by which both activity tables name it too.
CREATE OR REPLACE VIEW email_campaign_activities AS
SELECT campaign_id, activity.*
FROM email_campaigns
CROSS JOIN unnest(campaign_activities) AS one
CROSS JOIN jsonb_to_record(one) AS activity (campaign_activity_id text, role text);

-- Which campaign was sent to which lists. Segments are not read, so that nothing names email_campaigns.segment_ids.
CREATE OR REPLACE VIEW email_campaign_lists AS
SELECT campaign_id, list_id, contact_lists.name AS list_name
FROM email_campaigns
CROSS JOIN unnest(contact_list_ids) AS list_id
LEFT JOIN contact_lists USING (list_id);

-- The links that were clicked, with the contacts who did; on the contact route the service does not tell the link.
CREATE OR REPLACE VIEW clicked_links AS
SELECT campaign_id, campaign_activity_id, link_url, contact_id, count(*) AS clicks, min(created_time) AS first_click,
       max(created_time) AS last_click
FROM contact_activity_details
WHERE tracking_activity_type = 'em_clicks' AND link_url IS NOT NULL
GROUP BY campaign_id, campaign_activity_id, link_url, contact_id;
